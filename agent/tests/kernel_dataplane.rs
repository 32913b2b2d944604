//! Setting up, taking over and removing an instance's data plane. Needs root.

#[path = "kernel/namespace.rs"]
mod namespace;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::{
        TcAttachType,
        links::{FdLink, PinnedLink},
        tc::SchedClassifier,
    },
};
use namespace::{Namespace, index, run};
use tcpauth::kernel::{
    Attachment, Dataplane, Hook, KernelError, LANE0, LANE1, Link, LinkKind, Rekeyed, mapped,
};
use tcpauth_common::{
    Isn,
    layout::{
        KeyChange, KeySlot, LAYOUT_VERSION, OwnEnd, PeerPrefix, PeerRule, Policy, Quartet, Session, SynKey,
    },
    rollover::NO_ORDER,
};

fn ethernet(name: &str) -> Link {
    Link { index: index(name), name: name.to_owned(), mtu: 1500, kind: LinkKind::Ethernet, vrf: None }
}

fn quartet() -> Quartet {
    Quartet {
        local: mapped("192.0.2.1".parse().unwrap()),
        peer: mapped("192.0.2.2".parse().unwrap()),
        local_port: 179,
        peer_port: 40000,
        scope: 0,
    }
}

/// Ids of the programs on an interface, in order.
fn programs(interface: &str, at: TcAttachType) -> Vec<u32> {
    if Hook::of_this_kernel() == Hook::Tcx {
        let (_, programs) = SchedClassifier::query_tcx(interface, at).unwrap();
        return programs.iter().map(aya::programs::ProgramInfo::id).collect();
    }
    let side = if matches!(at, TcAttachType::Ingress) { "ingress" } else { "egress" };
    // Fails where there is no clsact: then there is no program either.
    let shown = Command::new("tc").args(["filter", "show", "dev", interface, side]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let words: Vec<&str> = shown.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == "id").map(|pair| pair[1].parse().unwrap()).collect()
}

/// Id of a pinned link.
fn link_id(namespace: &Namespace, pin: &str) -> String {
    let pinned = PinnedLink::from_pin(namespace.instance.pin_dir().join("links").join(pin)).unwrap();
    let link = FdLink::from(pinned);
    let fdinfo = format!("/proc/self/fdinfo/{}", fd_of(&link));
    std::fs::read_to_string(fdinfo)
        .unwrap()
        .lines()
        .find(|line| line.starts_with("link_id:"))
        .unwrap()
        .to_owned()
}

/// aya shows a link's descriptor in its debug form only.
fn fd_of(link: &FdLink) -> String {
    let text = format!("{link:?}");
    text.chars().filter(char::is_ascii_digit).collect()
}

#[test]
fn the_lane_is_made_as_the_programs_need_it() {
    let namespace = Namespace::new();
    Dataplane::open(&namespace.instance).unwrap();
    let features = run(&format!("ethtool -k {LANE0}"));
    for feature in [
        "tx-checksumming",
        "scatter-gather",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "generic-segmentation-offload",
    ] {
        assert!(features.contains(&format!("{feature}: off")), "{features}");
    }
    for name in [LANE0, LANE1] {
        let link = run(&format!("ip -d link show dev {name}"));
        assert!(link.contains("mtu 65535"), "{link}");
        assert!(link.contains("NOARP") && link.contains("UP,LOWER_UP"), "{link}");
        assert!(link.contains(&format!("alias tcpauth lane of instance {}", namespace.instance)), "{link}");
        assert_eq!(run(&format!("ip addr show dev {name}")).matches("inet").count(), 0);
        assert_eq!(programs(name, TcAttachType::Ingress).len(), 1);
        assert!(programs(name, TcAttachType::Egress).is_empty());
    }
}

#[test]
fn a_second_daemon_takes_over_maps_and_links() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    let mut first = Dataplane::open(&namespace.instance).unwrap();
    assert_eq!(first.attach(&ethernet("tk0")).unwrap(), Attachment::Protected(Hook::of_this_kernel()));
    let prefix =
        PeerPrefix { prefix_len: 160, scope: [0; 4], address: mapped("2001:db8::2".parse().unwrap()) };
    let rule = PeerRule { neighbor: 3, scope: 0, flags: 0 };
    let mut policy = Policy { port: 179, ..Policy::default() };
    policy.accept(tcpauth_common::KeyId(1));
    first.set_peer(&prefix, &rule).unwrap();
    first.set_policy(3, &policy).unwrap();
    first.set_port(179, true).unwrap();
    first.add_local("192.0.2.1".parse().unwrap()).unwrap();
    first.put_session(&quartet(), &Session { neighbor: 3, send_seq: 7 << 32, ..Session::default() }).unwrap();
    let lane = [index(LANE0), index(LANE1)];
    let pins = namespace.pins("links");
    let ids: Vec<String> = pins.iter().map(|pin| link_id(&namespace, pin)).collect();
    let old = programs("tk0", TcAttachType::Ingress);
    drop(first);
    assert_eq!(programs("tk0", TcAttachType::Ingress), old, "a daemon that goes leaves its programs");

    let mut second = Dataplane::open(&namespace.instance).unwrap();
    assert_eq!(programs("tk0", TcAttachType::Ingress), old, "programs stay until they are replaced");
    second.attach(&ethernet("tk0")).unwrap();
    let new = programs("tk0", TcAttachType::Ingress);
    assert_eq!(new.len(), 1);
    assert_ne!(new, old);
    assert_eq!(programs("tk0", TcAttachType::Egress).len(), 1);
    assert_eq!(namespace.pins("links"), pins);
    assert_eq!(pins.iter().map(|pin| link_id(&namespace, pin)).collect::<Vec<_>>(), ids, "updated in place");
    assert_eq!([index(LANE0), index(LANE1)], lane);
    assert_eq!(second.peers().unwrap(), [(prefix, rule)]);
    assert_eq!(second.policies().unwrap(), [(3, policy)]);
    assert_eq!(second.ports().unwrap(), [179]);
    assert_eq!(second.locals().unwrap(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(second.session(&quartet()).unwrap().unwrap().send_seq, 7 << 32);
    assert_eq!(second.attached().unwrap(), [index("tk0")]);
}

#[test]
fn policies_bring_their_counters_and_take_them_along() {
    let namespace = Namespace::new();
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    assert!(dataplane.counters(5).unwrap().is_none());
    dataplane.set_policy(5, &Policy { port: 179, ..Policy::default() }).unwrap();
    assert_eq!(dataplane.counters(5).unwrap().unwrap(), Default::default());
    dataplane.set_policy(5, &Policy { port: 1790, ..Policy::default() }).unwrap();
    assert_eq!(dataplane.policies().unwrap()[0].1.port, 1790);
    dataplane.remove_policy(5).unwrap();
    dataplane.remove_policy(5).unwrap();
    assert_eq!(dataplane.policies().unwrap(), []);
    assert!(dataplane.counters(5).unwrap().is_none());
    assert!(dataplane.session(&quartet()).unwrap().is_none());
    dataplane.remove_session(&quartet()).unwrap();
    dataplane.put_session(&quartet(), &Session::default()).unwrap();
    assert_eq!(dataplane.sessions().map(|entry| entry.unwrap().0).collect::<Vec<_>>(), [quartet()]);
}

#[test]
fn each_of_many_sessions_is_read_once() {
    let namespace = Namespace::new();
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    // Several batches, and a part of one.
    let ports = 1..=2500;
    for port in ports.clone() {
        let quartet = Quartet { local_port: port, ..quartet() };
        dataplane.put_session(&quartet, &Session { neighbor: port.into(), ..Session::default() }).unwrap();
    }
    let mut read: Vec<_> = dataplane.sessions().map(Result::unwrap).collect();
    assert!(read.iter().all(|(quartet, session)| u32::from(quartet.local_port) == session.neighbor));
    read.sort_unstable_by_key(|(quartet, _)| quartet.local_port);
    assert!(read.iter().map(|(quartet, _)| quartet.local_port).eq(ports));
}

/// Numbers of neighbours begin at 1.
#[test]
fn as_many_neighbours_fit_as_the_guide_says_and_one_more_leaves_nothing_behind() {
    let namespace = Namespace::new();
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    let policy = Policy { port: 179, ..Policy::default() };
    dataplane.set_policy(65_536, &policy).unwrap();
    let error = dataplane.set_policy(65_537, &policy).unwrap_err();
    assert!(error.to_string().contains("POLICIES is full"), "{error}");
    assert_eq!(dataplane.policies().unwrap(), [(65_536, policy)]);
    assert!(dataplane.counters(65_537).unwrap().is_none());
}

#[test]
fn an_interface_that_went_is_forgotten_at_the_next_start() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    let mut first = Dataplane::open(&namespace.instance).unwrap();
    first.attach(&ethernet("tk0")).unwrap();
    drop(first);
    run("ip link del tk0");
    let second = Dataplane::open(&namespace.instance).unwrap();
    namespace.assert_links(&["lane0", "lane1"]);
    assert!(second.attached().unwrap().is_empty());
}

#[test]
fn forgetting_takes_the_programs_off() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    // To the data plane, a VLAN interface is whatever is said to be one.
    let kind = LinkKind::Vlan { lower: index("tk0"), vid: 7, protocol: 0x88a8 };
    let vlan = Link { kind, ..ethernet("tk1") };
    let map = MapData::from_pin(namespace.instance.pin_dir().join("maps/VLANS")).unwrap();
    let vlans: HashMap<_, [u32; 2], u32> = Map::from_map_data(map).unwrap().try_into().unwrap();
    for link in [ethernet("tk0"), vlan.clone()] {
        dataplane.attach(&link).unwrap();
        assert_eq!(programs(&link.name, TcAttachType::Egress).len(), 1);
        let tagged = vlans.get(&[index("tk0"), 7 | 0x88a8 << 16], 0).ok();
        assert_eq!(tagged, (link == vlan).then_some(index("tk1")));
        dataplane.forget(link.index).unwrap();
        dataplane.forget(link.index).unwrap();
        assert!(programs(&link.name, TcAttachType::Egress).is_empty());
        assert!(programs(&link.name, TcAttachType::Ingress).is_empty());
    }
    assert_eq!(vlans.keys().count(), 0);
    assert!(dataplane.attached().unwrap().is_empty());
}

#[test]
fn loopback_has_a_program_for_what_arrives_and_a_macvlan_none() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    run("ip link add tkmv link tk0 type macvlan");
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    dataplane.attach(&Link { kind: LinkKind::Loopback, ..ethernet("lo") }).unwrap();
    assert_eq!(programs("lo", TcAttachType::Ingress).len(), 1);
    assert!(programs("lo", TcAttachType::Egress).is_empty());
    // As an earlier version would have it.
    dataplane.attach(&ethernet("tkmv")).unwrap();
    let upper = Link { kind: LinkKind::Upper { lower: index("tk0") }, ..ethernet("tkmv") };
    let attached = dataplane.attach(&upper).unwrap();
    assert_eq!(attached, Attachment::ByLower(index("tk0"), "tk0".to_owned()));
    assert_eq!(attached.to_string(), "by tk0");
    assert!(programs("tkmv", TcAttachType::Ingress).is_empty());
    assert!(programs("tkmv", TcAttachType::Egress).is_empty());
    assert!(dataplane.attached().unwrap().is_empty(), "neither needs a slot");
    dataplane.forget(index("lo")).unwrap();
    assert!(programs("lo", TcAttachType::Ingress).is_empty());
}

#[test]
fn ends_behind_us_are_kept_for_the_next_daemon() {
    let namespace = Namespace::new();
    let mut first = Dataplane::open(&namespace.instance).unwrap();
    let end = OwnEnd {
        prefix_len: 32 + 96 + 24,
        neighbor: 3_u32.to_be_bytes(),
        address: mapped("10.88.0.0".parse().unwrap()),
    };
    first.set_forwarded(&end, 5).unwrap();
    first.set_forwarded(&end, 6).unwrap();
    drop(first);
    let mut second = Dataplane::open(&namespace.instance).unwrap();
    assert_eq!(second.forwarded().unwrap(), [(end, 6)]);
    second.remove_forwarded(&end).unwrap();
    second.remove_forwarded(&end).unwrap();
    assert!(second.forwarded().unwrap().is_empty());
}

#[test]
fn purge_leaves_nothing() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    dataplane.attach(&ethernet("tk0")).unwrap();
    drop(dataplane);
    let report = Dataplane::purge(&namespace.instance).unwrap();
    assert_eq!(report.interfaces, ["tk0"]);
    assert!(report.lane);
    let links = if Hook::of_this_kernel() == Hook::Tcx { 4 } else { 0 };
    assert!(report.pins >= 15 + 6 + links, "{report}");
    assert!(!namespace.instance.pin_dir().exists());
    assert!(programs("tk0", TcAttachType::Ingress).is_empty());
    assert!(!run("ip link").contains(LANE0));
    let again = Dataplane::purge(&namespace.instance).unwrap();
    assert_eq!(again.to_string(), "nothing to remove");
}

#[test]
fn clsact_filters_are_replaced_and_purged() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    let shown = || run("tc filter show dev tk0 ingress") + &run("tc filter show dev tk0 egress");
    for _ in 0..2 {
        let mut dataplane = Dataplane::open_with(&namespace.instance, Hook::Clsact).unwrap();
        assert_eq!(dataplane.attach(&ethernet("tk0")).unwrap().to_string(), "clsact");
        drop(dataplane);
        let filters = shown();
        assert_eq!(filters.matches("direct-action").count(), 2, "{filters}");
    }
    let mut dataplane = Dataplane::open_with(&namespace.instance, Hook::Clsact).unwrap();
    dataplane.forget(index("tk0")).unwrap();
    assert_eq!(shown().matches("direct-action").count(), 0);
    dataplane.attach(&ethernet("tk0")).unwrap();
    drop(dataplane);
    assert_eq!(Dataplane::purge(&namespace.instance).unwrap().interfaces, ["tk0"]);
    assert!(!run("tc qdisc show dev tk0").contains("clsact"));
    assert!(!namespace.instance.pin_dir().exists());
}

/// Adds a filter that lets every frame pass, of the kind that each kernel has which takes ours.
fn add_foreign_filter(interface: &str, way: &str, place: &str) {
    let place = place.split_whitespace();
    let status = std::process::Command::new("tc")
        .args(["filter", "add", "dev", interface, way])
        .args(place)
        .args(["bpf", "bytecode", "1,6 0 0 4294967295", "flowid", "1:1"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn clsact_filters_run_before_others() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    run("tc qdisc add dev tk0 clsact");
    add_foreign_filter("tk0", "ingress", "pref 10 protocol all");
    add_foreign_filter("tk0", "egress", "pref 5 protocol ip");
    let mut dataplane = Dataplane::open_with(&namespace.instance, Hook::Clsact).unwrap();
    let link = ethernet("tk0");
    dataplane.attach(&link).unwrap();
    assert_eq!(dataplane.check(&link).unwrap(), []);
    // A filter that cannot share the first preference with ours.
    run("ip link add tk2 type veth peer name tk3");
    run("tc qdisc add dev tk2 clsact");
    add_foreign_filter("tk2", "ingress", "pref 1 protocol ip");
    let link = ethernet("tk2");
    dataplane.attach(&link).unwrap();
    let found = format!("{:?}", dataplane.check(&link).unwrap());
    assert!(found.contains("filter bpf at preference 1"), "{found}");
    // As after an upgrade from a version whose filters have the later preference.
    run("tc filter del dev tk2 ingress pref 1");
    dataplane.attach(&link).unwrap();
    assert_eq!(dataplane.check(&link).unwrap(), []);
    assert_eq!(run("tc filter show dev tk2 ingress").matches("direct-action").count(), 1);
}

#[test]
fn a_set_up_that_was_cut_short_is_completed() {
    let namespace = Namespace::new();
    // Only the near end's name is there, as if the far end had been renamed or the pair half deleted.
    run(&format!("ip link add {LANE0} type veth peer name other"));
    drop(Dataplane::open(&namespace.instance).unwrap());
    // A lane of ours that was not finished, under maps and links that refer to another one.
    run(&format!("ip link del {LANE0}"));
    run(&format!("ip link add {LANE1} type veth peer name {LANE0}"));
    for pin in ["maps/SETTINGS", "links/lane0", "progs/seal"] {
        let pin = namespace.instance.pin_dir().join(pin);
        if Hook::of_this_kernel() == Hook::Tcx || !pin.starts_with(namespace.instance.pin_dir().join("links"))
        {
            std::fs::remove_file(pin).unwrap();
        }
    }
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    assert_eq!(programs(LANE1, TcAttachType::Ingress).len(), 1);
    assert_eq!(programs(LANE0, TcAttachType::Ingress).len(), 1);
    assert!(run(&format!("ethtool -k {LANE0}")).contains("tx-tcp-segmentation: off"));
    assert_eq!(namespace.pins("maps").len(), 15);
    dataplane.set_port(179, true).unwrap();
}

#[test]
fn maps_of_another_layout_or_namespace_are_refused() {
    let namespace = Namespace::new();
    drop(Dataplane::open(&namespace.instance).unwrap());
    let map = MapData::from_pin(namespace.instance.pin_dir().join("maps/SETTINGS")).unwrap();
    let mut settings: Array<_, [u32; 4]> = Map::from_map_data(map).unwrap().try_into().unwrap();
    let good = settings.get(&0, 0).unwrap();
    assert_eq!(good, [LAYOUT_VERSION, index(LANE0), index(LANE1), good[3]]);

    settings.set(0, [LAYOUT_VERSION + 1, good[1], good[2], good[3]], 0).unwrap();
    let error = Dataplane::open(&namespace.instance).err().unwrap();
    assert!(matches!(error, KernelError::Layout { .. }), "{error}");
    assert!(error.to_string().contains(&format!("tcpauth purge --instance {}", namespace.instance)));

    settings.set(0, [good[0], good[1], good[2], good[3] ^ 1], 0).unwrap();
    let error = Dataplane::open(&namespace.instance).err().unwrap();
    assert!(matches!(error, KernelError::OtherNamespace { .. }), "{error}");
    settings.set(0, good, 0).unwrap();
    Dataplane::open(&namespace.instance).unwrap();
}

/// What is pinned has the traffic keys of all sessions.
#[test]
fn pins_are_for_root_only() {
    let namespace = Namespace::new();
    run("ip link add tk0 type veth peer name tk1");
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    dataplane.attach(&ethernet("tk0")).unwrap();
    let (mut folders, mut pins) = (vec![namespace.instance.pin_dir()], 0);
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
                pins += 1;
            }
        }
    }
    assert!(pins > 15, "{pins}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn one_namespace_has_one_instance() {
    let namespace = Namespace::new();
    drop(Dataplane::open(&namespace.instance).unwrap());
    let other = format!("{}-b", namespace.instance).parse().unwrap();
    let error = Dataplane::open(&other).err().unwrap();
    assert!(matches!(error, KernelError::OtherInstance { .. }), "{error}");
    assert!(error.to_string().contains(namespace.instance.name()));
    assert!(!other.pin_dir().exists());
    assert_eq!(Dataplane::purge(&other).unwrap().to_string(), "nothing to remove");
    Dataplane::open(&namespace.instance).unwrap();
}

#[test]
fn an_interface_with_the_lanes_name_is_not_touched() {
    let namespace = Namespace::new();
    run(&format!("ip link add {LANE1} type bridge"));
    let error = Dataplane::open(&namespace.instance).err().unwrap();
    assert!(matches!(error, KernelError::LaneName { name } if name == LANE1), "{error}");
    Dataplane::purge(&namespace.instance).unwrap();
    assert!(run("ip link").contains(LANE1));
}

#[test]
fn without_privileges_the_error_says_so() {
    let namespace = Namespace::new();
    drop(Dataplane::open(&namespace.instance).unwrap());
    let instance = namespace.instance.clone();
    let inside = move || {
        // The system call itself: it is for this thread alone.
        // SAFETY: numbers only.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0);
        let errors = [Dataplane::open(&instance).err().unwrap(), Dataplane::purge(&instance).err().unwrap()];
        for error in errors {
            assert!(matches!(error, KernelError::NotRoot { .. }), "{error}");
            assert!(error.to_string().contains("run as root"));
        }
    };
    std::thread::spawn(inside).join().unwrap();
    namespace.assert_links(&["lane0", "lane1"]);
}

#[test]
fn pins_outlive_a_private_mount_namespace() {
    use nix::{
        mount::{MntFlags, MsFlags, mount, umount2},
        sched::{CloneFlags, unshare},
    };
    let namespace = Namespace::new();
    let instance = namespace.instance.clone();
    let inside = move || {
        // As `ip netns exec` does it: a /sys of its own, on which there is no bpffs.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>).unwrap();
        umount2("/sys", MntFlags::MNT_DETACH).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert!(!instance.pin_dir().exists());
        drop(Dataplane::open(&instance).unwrap());
        let mut second = Dataplane::open(&instance).unwrap();
        second.set_port(1790, true).unwrap();
    };
    // A thread starts in the network namespace of the one that makes it.
    std::thread::spawn(inside).join().unwrap();
    namespace.assert_links(&["lane0", "lane1"]);
    assert_eq!(programs(LANE1, TcAttachType::Ingress).len(), 1);
    assert_eq!(Dataplane::open(&namespace.instance).unwrap().ports().unwrap(), [1790]);
}

#[test]
fn the_keys_of_a_session_are_changed_in_its_place() {
    let namespace = Namespace::new();
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    let mut change = KeyChange {
        quartet: quartet(),
        local_isn: Isn(1),
        peer_isn: Isn(2),
        written: 1,
        order: NO_ORDER & !3,
        rnext: 0,
        current: 0,
        flags: 0,
        neighbor: 9,
        usable: [KeySlot::SEND, 0, 0],
        reserved: 0,
        phase: 0,
        sent_before: 0,
        received_before: 0,
        largest_segment: 1000,
        syn_recv_isn: Isn(0),
        syn_recv: SynKey::default(),
        slots: [KeySlot { algorithm: 1, ..KeySlot::default() }; 3],
    };
    assert_eq!(dataplane.rekey(&change).unwrap(), Rekeyed::NoSession);
    let flags = Session::LOCAL_ISN | Session::PEER_ISN;
    let session = Session { flags, local_isn: Isn(1), peer_isn: Isn(2), send_seq: 7, ..Session::default() };
    dataplane.put_session(&quartet(), &session).unwrap();
    assert_eq!(dataplane.rekey(&change).unwrap(), Rekeyed::Done);
    let after = dataplane.session(&quartet()).unwrap().unwrap();
    assert_eq!((after.slots[0].algorithm, after.slots[0].flags), (1, KeySlot::SEND));
    assert_eq!((after.rollover.current, after.rollover.order, after.send_seq), (0, NO_ORDER & !3, 7));
    assert_eq!(after.neighbor, 9, "the neighbour that has it from now on");
    assert_eq!(after.largest_segment, 0, "nothing asks for it");
    for (asked, expected) in [(1000, 1000), (1400, 1000), (900, 900)] {
        let change =
            KeyChange { flags: KeyChange::LIMIT_SEGMENTS, largest_segment: asked, written: 0, ..change };
        assert_eq!(dataplane.rekey(&change).unwrap(), Rekeyed::Done);
        let limited = dataplane.session(&quartet()).unwrap().unwrap().largest_segment;
        assert_eq!(limited, expected, "it is lowered, never raised");
    }
    change.local_isn = Isn(3);
    assert_eq!(dataplane.rekey(&change).unwrap(), Rekeyed::OtherConnection);
}
