//! Following interfaces and addresses. Needs root.

#[path = "kernel/namespace.rs"]
mod namespace;

use std::time::Duration;

use namespace::{Namespace, index, run};
use tcpauth::kernel::{Dataplane, LinkEvent, LinkKind, LinkWatch, interface_towards};
use tokio::time::timeout;

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Events until none comes for a while.
async fn events(watch: &mut LinkWatch) -> Vec<LinkEvent> {
    let mut events = Vec::new();
    while let Ok(event) = timeout(Duration::from_millis(200), watch.next()).await {
        events.push(event.unwrap());
    }
    events
}

fn up(events: &[LinkEvent], name: &str) -> Option<LinkKind> {
    events.iter().find_map(|event| match event {
        LinkEvent::Up(link) if link.name == name => Some(link.kind.clone()),
        _ => None,
    })
}

#[test]
fn what_is_there_comes_first_and_kinds_are_told_apart() {
    let namespace = Namespace::new();
    run("ip link set lo up");
    run("ip link add tk0 type veth peer name tk1");
    run("ip link add tkbr type bridge");
    run("ip link set tk1 master tkbr");
    run("ip tuntap add tktun mode tun");
    run("ip link add tkmv link tk0 type macvlan mode bridge");
    run("ip addr add 192.0.2.1/24 dev tk0");
    run("ip addr add 192.0.2.9 peer 192.0.2.10 dev tk0");
    run("ip addr add 2001:db8::1/64 dev tk0");
    Dataplane::open(&namespace.instance).unwrap();
    in_runtime(async {
        let mut watch = LinkWatch::new().unwrap();
        let events = events(&mut watch).await;
        assert_eq!(up(&events, "tk0"), Some(LinkKind::Ethernet));
        assert_eq!(up(&events, "tkbr"), Some(LinkKind::Ethernet));
        assert_eq!(up(&events, "tktun"), Some(LinkKind::Ip));
        assert_eq!(up(&events, "lo"), Some(LinkKind::Loopback));
        assert_eq!(up(&events, "tkmv"), Some(LinkKind::Upper { lower: index("tk0") }));
        let first_link = events.iter().position(|event| matches!(event, LinkEvent::Up(_))).unwrap();
        let last_address = events.iter().rposition(|event| matches!(event, LinkEvent::AddressAdded(_)));
        assert!(last_address.unwrap() < first_link, "{events:?}");
        for none in ["tk1", "tcpauth-lane0", "tcpauth-lane1"] {
            assert_eq!(up(&events, none), None);
            assert!(events.contains(&LinkEvent::Gone(index(none))), "{none}");
        }
        for address in ["192.0.2.1", "192.0.2.9", "2001:db8::1", "127.0.0.1", "::1"] {
            let added = LinkEvent::AddressAdded(address.parse().unwrap());
            assert!(events.contains(&added), "{address}: {events:?}");
        }
        assert!(!events.contains(&LinkEvent::AddressAdded("192.0.2.10".parse().unwrap())));
    });
}

#[test]
fn the_kernel_is_asked_for_the_way_to_a_neighbour() {
    let _namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    run("ip link set tk0 up");
    run("ip addr add 192.0.2.1/24 dev tk0");
    run("ip addr add 2001:db8::1/64 dev tk0 nodad");
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert_eq!(interface_towards(address.parse().unwrap()), Some(index("tk0")), "{address}");
    }
    assert_eq!(interface_towards("198.51.100.1".parse().unwrap()), None);
}

#[test]
fn an_interface_comes_changes_and_goes() {
    let namespace = Namespace::new();
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    in_runtime(async {
        let mut watch = LinkWatch::new().unwrap();
        events(&mut watch).await;
        run("ip link add tk0 type veth peer name tk1");
        let seen = events(&mut watch).await;
        let LinkEvent::Up(link) =
            seen.iter().find(|event| matches!(event, LinkEvent::Up(link) if link.name == "tk0")).unwrap()
        else {
            unreachable!("found as Up")
        };
        dataplane.attach(link).unwrap();
        let pins = [format!("{}-egress", link.index), format!("{}-ingress", link.index)];
        namespace.assert_links(&[&pins[0], &pins[1], "lane0", "lane1"]);

        run("ip addr add 192.0.2.1/24 dev tk0");
        run("ip link set tk0 mtu 9000");
        let seen = events(&mut watch).await;
        assert!(seen.contains(&LinkEvent::AddressAdded("192.0.2.1".parse().unwrap())));
        assert!(seen.iter().any(|event| matches!(event, LinkEvent::Up(link) if link.mtu == 9000)));

        run("ip link add tkbr type bridge");
        run("ip link set tk1 master tkbr");
        let port = index("tk1");
        assert!(events(&mut watch).await.contains(&LinkEvent::Gone(port)));
        run("ip link set tk1 nomaster");
        assert_eq!(up(&events(&mut watch).await, "tk1"), Some(LinkKind::Ethernet));

        let gone = index("tk0");
        run("ip link del tk0");
        let seen = events(&mut watch).await;
        assert!(seen.contains(&LinkEvent::Gone(gone)));
        assert!(seen.contains(&LinkEvent::AddressRemoved("192.0.2.1".parse().unwrap())));
        dataplane.forget(gone).unwrap();
        namespace.assert_links(&["lane0", "lane1"]);
    });
}

#[test]
fn an_overrun_loses_nothing() {
    let _namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    in_runtime(async {
        let mut watch = LinkWatch::new().unwrap();
        events(&mut watch).await;
        // More messages than the socket takes while nobody reads.
        let toggle = "link set tk0 mtu 1400\nlink set tk0 mtu 1500\n".repeat(3000);
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), toggle + "link set tk0 mtu 1300\nlink del tk1\n").unwrap();
        let gone = [index("tk0"), index("tk1")];
        run(&format!("ip -batch {}", batch.path().display()));
        run("ip link add tk2 type bridge");
        let seen = events(&mut watch).await;
        assert!(up(&seen, "tk2").is_some());
        for index in gone {
            assert!(seen.contains(&LinkEvent::Gone(index)));
        }
        assert!(seen.len() < 6000, "no overrun happened: {} events", seen.len());
    });
}
