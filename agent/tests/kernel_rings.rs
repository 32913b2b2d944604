//! Held segments and drops as the programs report them, and what is released. Needs root.

#[path = "kernel/namespace.rs"]
mod namespace;

use std::{io, io::Write, os::fd::AsRawFd, time::Duration};

use namespace::{Namespace, index, run};
use tcpauth::{
    instance::Instance,
    kernel::{Dataplane, Link, LinkKind, mapped},
};
use tcpauth_common::{
    DropReason,
    layout::{Direction, Held, PeerPrefix, PeerRule, Policy},
};
use tokio::{net::TcpStream, time::timeout};

const WAIT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);
const KEY_ID: u8 = 7;

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A data plane with the neighbour 192.0.2.2 on tk0; what is sent on tk1 arrives there.
fn with_neighbor(instance: &Instance) -> Dataplane {
    run("ip link add tk0 address 02:00:00:00:00:01 type veth peer name tk1");
    run("ip link set tk0 up");
    run("ip link set tk1 up");
    run("ip addr add 192.0.2.1/24 dev tk0");
    run("ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev tk0");
    let mut dataplane = Dataplane::open(instance).unwrap();
    let mut policy = Policy { port: 179, ..Policy::default() };
    policy.accept(tcpauth_common::KeyId(KEY_ID));
    let address = mapped("192.0.2.2".parse().unwrap());
    let prefix = PeerPrefix { prefix_len: 160, scope: [0; 4], address };
    dataplane.set_policy(1, &policy).unwrap();
    dataplane.set_peer(&prefix, &PeerRule { neighbor: 1, scope: 0, flags: 0 }).unwrap();
    dataplane.set_port(179, true).unwrap();
    dataplane.add_local("192.0.2.1".parse().unwrap()).unwrap();
    let link =
        Link { index: index("tk0"), name: "tk0".to_owned(), mtu: 1500, kind: LinkKind::Ethernet, vrf: None };
    dataplane.attach(&link).unwrap();
    dataplane
}

/// A SYN from 192.0.2.2:40000 to 192.0.2.1:179 with these options.
fn syn(options: &[u8]) -> Vec<u8> {
    let tcp_len = 20 + options.len();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.extend([0x45, 0, 0, (20 + tcp_len) as u8, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([192, 0, 2, 2, 192, 0, 2, 1]);
    let sum: u32 = frame[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([0x9c, 0x40, 0, 179, 0, 0, 0x12, 0x34, 0, 0, 0, 0]);
    frame.extend([(tcp_len as u8 / 4) << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(options);
    frame
}

/// TCP-AO with a MAC that nobody has looked at yet.
fn signed_syn() -> Vec<u8> {
    let mut option = [0xaa; 16];
    option[..4].copy_from_slice(&[29, 16, KEY_ID, KEY_ID]);
    syn(&option)
}

/// Sends a frame out of an interface.
fn inject(interface: &str, frame: &[u8]) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
    // SAFETY: zeros are a sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index(interface).cast_signed();
    // SAFETY: the frame and the address outlive the call and are given with their sizes.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
}

fn check_inbound(held: &Held, frame: &[u8]) {
    assert_eq!(frame, signed_syn());
    assert_eq!(held.direction, Direction::Inbound as u8);
    assert_eq!((held.neighbor, held.ifindex), (1, index("tk0")));
    assert_eq!((held.l3_offset, held.l4_offset, held.ethertype), (14, 34, 0x0800));
    assert_eq!((held.quartet.local_port, held.quartet.peer_port), (179, 40000));
    assert_eq!(held.quartet.peer, mapped("192.0.2.2".parse().unwrap()));
}

#[test]
fn a_released_inbound_segment_arrives_at_its_interface_again() {
    let namespace = Namespace::new();
    let mut dataplane = with_neighbor(&namespace.instance);
    in_runtime(async {
        let mut ring = dataplane.take_held().unwrap();
        assert!(dataplane.take_held().is_err(), "a ring is taken once");
        inject("tk1", &signed_syn());
        let (held, frame) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        check_inbound(&held, &frame);
        // There is no session still, so it is held once more: it came back to where it was.
        dataplane.release(&held, &frame).unwrap();
        let (held, frame) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        check_inbound(&held, &frame);
        assert!(timeout(SHORT, ring.next_held()).await.is_err(), "once, not more often");
    });
}

#[test]
fn a_released_outbound_segment_goes_through_the_lane_again() {
    let namespace = Namespace::new();
    let mut dataplane = with_neighbor(&namespace.instance);
    in_runtime(async {
        let mut ring = dataplane.take_held().unwrap();
        let connecting = tokio::spawn(TcpStream::connect("192.0.2.2:179"));
        let (held, frame) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        connecting.abort();
        assert_eq!(held.direction, Direction::Outbound as u8);
        assert_eq!((held.ifindex, held.quartet.peer_port), (index("tk0"), 179));
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 2]);
        let sequence = usize::from(held.l4_offset) + 4;
        dataplane.release(&held, &frame).unwrap();
        let again = async {
            // TCP may have sent the SYN once more on its own.
            loop {
                let (held, other) = ring.next_held().await.unwrap();
                if held.direction == Direction::Outbound as u8 {
                    return other;
                }
            }
        };
        let other = timeout(SHORT, again).await.expect("before TCP's own retransmission, a second later");
        assert_eq!(other[sequence..sequence + 4], frame[sequence..sequence + 4]);
    });
}

#[test]
fn a_segment_without_option_is_reported_as_dropped() {
    let namespace = Namespace::new();
    let mut dataplane = with_neighbor(&namespace.instance);
    in_runtime(async {
        let mut ring = dataplane.take_dropped().unwrap();
        inject("tk1", &syn(&[]));
        let dropped = timeout(WAIT, ring.next_dropped()).await.unwrap().unwrap();
        assert_eq!(DropReason::from_number(dropped.reason), Some(DropReason::NoOption));
        assert_eq!((dropped.seq, dropped.segment_len, dropped.neighbor), (0x1234, 20, 1));
        let counters = dataplane.counters(1).unwrap().unwrap();
        assert_eq!(counters.dropped[DropReason::NoOption as usize], 1);
    });
}

#[test]
fn what_was_held_before_a_start_is_thrown_away() {
    let namespace = Namespace::new();
    let dataplane = with_neighbor(&namespace.instance);
    inject("tk1", &signed_syn());
    std::thread::sleep(SHORT);
    drop(dataplane);
    let pins = ["egress", "ingress"].map(|side| format!("{}-{side}", index("tk0")));
    namespace.assert_links(&[&pins[0], &pins[1], "lane0", "lane1"]);
    let mut dataplane = Dataplane::open(&namespace.instance).unwrap();
    in_runtime(async {
        let mut ring = dataplane.take_held().unwrap();
        assert!(timeout(SHORT, ring.next_held()).await.is_err());
        // The interface has the programs of the daemon before still, and they feed the same ring.
        inject("tk1", &signed_syn());
        let (held, frame) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        check_inbound(&held, &frame);
    });
}

/// A bare IPv4 packet written into a tun device arrives by it.
#[test]
fn a_segment_from_a_tunnel_is_held_released_and_arrives_again() {
    let namespace = Namespace::new();
    let mut tunnel = open_tun("tktun");
    run("ip link set tktun up");
    run("ip addr add 198.51.100.1 peer 192.0.2.2 dev tktun");
    let mut dataplane = with_neighbor(&namespace.instance);
    let link =
        Link { index: index("tktun"), name: "tktun".to_owned(), mtu: 1500, kind: LinkKind::Ip, vrf: None };
    dataplane.attach(&link).unwrap();
    assert!(dataplane.attached().unwrap().contains(&link.index));
    let packet = &signed_syn()[14..];
    in_runtime(async {
        let mut ring = dataplane.take_held().unwrap();
        for _ in 0..2 {
            // The first time as it is written into the tunnel, the second time as it is released.
            tunnel.write_all(packet).unwrap_or_else(|error| panic!("{error}"));
            let (held, frame) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
            assert_eq!((held.ifindex, held.l3_offset, held.l4_offset), (link.index, 0, 20));
            assert_eq!(frame, packet);
            dataplane.release(&held, &frame).unwrap();
            let (again, frame) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
            assert_eq!((again.ifindex, again.l3_offset), (link.index, 0));
            assert_eq!(frame, packet);
        }
        assert!(timeout(SHORT, ring.next_held()).await.is_err(), "once, not more often");
    });
}

#[test]
fn what_our_end_sends_is_read_before_a_flood_of_forged_syns() {
    let namespace = Namespace::new();
    let mut dataplane = with_neighbor(&namespace.instance);
    in_runtime(async {
        let mut ring = dataplane.take_held().unwrap();
        for _ in 0..50 {
            inject("tk1", &signed_syn());
        }
        let (held, _) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        assert_eq!(held.direction, Direction::Inbound as u8);
        let connecting = tokio::spawn(TcpStream::connect("192.0.2.2:179"));
        tokio::time::sleep(SHORT).await;
        connecting.abort();
        let (held, _) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        assert_eq!(held.direction, Direction::Outbound as u8, "the flood was there before");
        let (held, _) = timeout(WAIT, ring.next_held()).await.unwrap().unwrap();
        assert_eq!(held.direction, Direction::Inbound as u8);
    });
}

/// A tun device of this name; it goes with the file.
fn open_tun(name: &str) -> std::fs::File {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: zeros are an ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: the request outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    file
}
