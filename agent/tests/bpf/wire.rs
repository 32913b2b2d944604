//! What a test-run cannot have: frames longer than a page, VLAN tags that the kernel has taken out of the frame,
//! and where a redirected frame goes. The programs are attached to veths, and frames sent through them.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType;
use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, DropReason, layout::Direction};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK, SYN},
    lab::Lab,
    segment::{Segment, number16},
};

/// Most data that the programs verify in one segment.
const MOST: usize = 16_000;
/// The MSS above which nobody is asked for segments: what is that long must be sealed.
const MOST_ASKED: usize = 15_360;

/// A lab in which `lane0` leads to `seal` at `lane1`, and `near` has `ingress`; all take jumbo frames.
pub struct Wire {
    pub lab: Lab,
    lane0: OwnedFd,
    /// The neighbour's end.
    pub far: OwnedFd,
}

impl Wire {
    pub fn new(connection: &Connection) -> Self {
        let mut wire = Self::without_seal(connection);
        wire.lab.attach("seal", "lane1", TcAttachType::Ingress);
        wire
    }

    /// The same, where what is in the lane stays as it is.
    pub fn without_seal(connection: &Connection) -> Self {
        let mut lab = Lab::with(connection, Some(&connection.session()));
        ip("link add lane0 type veth peer name lane1");
        for name in ["near", "far", "lane0", "lane1"] {
            ip(&format!("link set {name} mtu 65000 up"));
        }
        lab.attach("ingress", "near", TcAttachType::Ingress);
        let (lane0, far) = (packet_socket("lane0"), packet_socket("far"));
        mark(&lane0, lab.ifindex);
        Self { lab, lane0, far }
    }

    /// Sends a frame of ours on its way through `seal`; what arrives at the neighbour, and its VLAN tag.
    fn seal(&mut self, frame: &[u8]) -> (Vec<u8>, Option<u16>) {
        send(&self.lane0, frame);
        receive(&self.far).unwrap_or_else(|| {
            let dropped = self.lab.take_dropped();
            panic!("of {} octets nothing arrives: {dropped:?}", frame.len())
        })
    }

    /// Sends a frame of the neighbour and waits until it is verified.
    fn arrive(&mut self, connection: &Connection, frame: &[u8]) -> bool {
        let verified = |lab: &Lab| lab.counters(connection.neighbor).passed.verified_segments;
        let before = verified(&self.lab);
        send(&self.far, frame);
        wait_until(|| verified(&self.lab) == before + 1)
    }
}

#[test]
fn segments_up_to_the_largest() {
    for family in [Family::V4, Family::V6] {
        let first = Connection::new(family, Algorithm::HmacSha1_96, TcpOptions::Include);
        let mut wire = Wire::new(&first);
        for algorithm in Algorithm::TCP_AO {
            for tcp_options in [TcpOptions::Include, TcpOptions::Exclude] {
                let connection = Connection::new(family, algorithm, tcp_options);
                let session = connection.session();
                wire.lab.add_neighbor(&connection);
                wire.lab.put(&connection, &session);
                for len in [0, 1400, 4033, 8888, 8948, 8960, 9000, MOST_ASKED, MOST - 1, MOST] {
                    let place = format!("{family:?} {algorithm:?} {tcp_options:?} {len}");
                    let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
                    let options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
                    let ours = Segment { data, options, ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
                    if len <= MOST_ASKED {
                        let (frame, tag) = wire.seal(&ours.frame());
                        let sealed = Segment::of_frame(&frame);
                        assert_eq!((tag, &sealed.data), (None, &ours.data), "{place}");
                        assert!(connection.accepts(&session.slots[0].send, &sealed, 0), "{place}");
                    }
                    let theirs = Segment {
                        source: ours.destination,
                        destination: ours.source,
                        seq: PEER_ISN + 1,
                        ..ours
                    };
                    let signed = connection.sign(&session.slots[0].recv, theirs, 0);
                    assert!(
                        wire.arrive(&connection, &signed.frame()),
                        "{place}: {:?}",
                        wire.lab.take_dropped()
                    );
                }
            }
        }
    }
}

#[test]
fn no_peer_is_answered_with_more_than_can_be_sealed() {
    for (family, extensions) in [(Family::V4, vec![]), (Family::V6, vec![(60, vec![0; 64])])] {
        let connection = Connection::new(family, Algorithm::HmacSha256_128, TcpOptions::Include);
        let session = connection.session();
        let mut wire = Wire::new(&connection);
        // MTUs are 65000 here. What a SYN-ACK arrives with is what our stack goes by.
        let syn_ack = Segment { options: vec![2, 4, 0xff, 0xff], ..connection.inbound(SYN | ACK, PEER_ISN) };
        let arrived = wire.lab.verified(&connection.sign(&session.slots[0].recv, syn_ack, 0));
        let data = vec![1; number16(&arrived.options, 2).into()];
        assert_eq!(data.len(), MOST_ASKED - 20);
        let mut extensions = extensions;
        extensions.iter_mut().for_each(|(_, octets)| octets[1] = octets.len() as u8 / 8 - 1);
        let ours = Segment { data, extensions, ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        let (frame, _) = wire.seal(&ours.frame());
        assert!(connection.accepts(&session.slots[0].send, &Segment::of_frame(&frame), 0));
    }
}

#[test]
fn segments_larger_than_the_largest_do_not_pass() {
    let connection = Connection::plain();
    let session = connection.session();
    let wire = Wire::new(&connection);
    let ours = Segment { data: vec![1; MOST + 1], ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
    send(&wire.lane0, &ours.frame());
    let theirs = Segment { source: ours.destination, destination: ours.source, seq: PEER_ISN + 1, ..ours };
    // Whatever its MAC: no code of ours can take it of so many octets.
    let options = [&[29, 16, 84, 61][..], &[0; 12]].concat();
    send(&wire.far, &Segment { options, ..theirs }.frame());
    let malformed = DropReason::Malformed as usize;
    assert!(wait_until(|| wire.lab.counters(connection.neighbor).dropped[malformed] == 2));
    let now = wire.lab.session(&connection).unwrap();
    assert_eq!((now.send_seq, now.recv_seq), (session.send_seq, session.recv_seq));
    assert!(receive(&wire.far).is_none());
}

#[test]
fn vlan_tags_stay_with_what_is_sealed() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::HmacSha256_128, TcpOptions::Include);
        let session = connection.session();
        let mut wire = Wire::new(&connection);
        let ours =
            Segment { vlan: Some(42), data: vec![1; 50], ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        let (frame, tag) = wire.seal(&ours.frame());
        assert_eq!(tag, Some(42));
        assert!(connection.accepts(&session.slots[0].send, &Segment::of_frame(&frame), 0));
        let theirs = Segment { vlan: Some(42), ..connection.signed(&session, ACK, PEER_ISN + 1) };
        assert!(wire.arrive(&connection, &theirs.frame()), "{:?}", wire.lab.take_dropped());
    }
}

#[test]
fn a_tag_beside_the_frame_is_held_beside_it() {
    let connection = Connection::plain();
    let mut wire = Wire::new(&connection);
    wire.lab.remove(&connection);
    let key = connection.session().slots[0].recv;
    let syn = connection.sign(&key, connection.inbound(SYN, 1), 0);
    send(&wire.far, &Segment { vlan: Some(42), ..syn.clone() }.frame());
    let mut held = None;
    assert!(wait_until(|| {
        held = wire.lab.take_held();
        held.is_some()
    }));
    let (held, frame) = held.unwrap();
    assert_eq!((held.vlan_present, held.vlan_tci, held.l3_offset, held.l4_offset), (1, 42, 14, 34));
    assert_eq!((held.ifindex, held.direction), (wire.lab.ifindex, Direction::Inbound as u8));
    assert_eq!(frame, syn.frame());
}

#[test]
fn the_whole_way_out_and_the_way_of_what_is_released() {
    for family in [Family::V4, Family::V6] {
        let connection = Connection::new(family, Algorithm::Aes128Cmac96, TcpOptions::Include);
        let session = connection.session();
        let mut wire = Wire::new(&connection);
        wire.lab.use_lane("lane0", "lane1");
        wire.lab.attach("egress", "near", TcAttachType::Egress);
        wire.lab.attach("release", "lane0", TcAttachType::Ingress);
        // Egress of `near`, lane, seal, egress of `near` again, by the interface's slot.
        let ours = Segment { data: vec![1; 99], ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) };
        send(&packet_socket("near"), &ours.frame());
        let (frame, _) = receive(&wire.far).expect("it arrives at the neighbour");
        assert!(connection.accepts(&session.slots[0].send, &Segment::of_frame(&frame), 0));
        assert!(receive(&wire.far).is_none(), "once");
        assert_eq!(wire.lab.counters(connection.neighbor).passed.signed_segments, 1);
        // Another connection passes as it is.
        let mut other = ours.clone();
        other.source.set_port(1);
        other.destination.set_port(2);
        send(&packet_socket("near"), &other.frame());
        assert_eq!(receive(&wire.far).unwrap().0, other.frame());

        let released = packet_socket("lane1");
        mark(&released, wire.lab.ifindex);
        let theirs = connection.signed(&session, ACK, PEER_ISN + 1);
        send(&released, &theirs.frame());
        let verified = |lab: &Lab| lab.counters(connection.neighbor).passed.verified_segments == 1;
        assert!(wait_until(|| verified(&wire.lab)), "{:?}", wire.lab.take_dropped());
    }
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Waits up to a second.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Duration::from_secs(1) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A packet socket on `interface` that is told of VLAN tags and waits half a second for a frame.
pub fn packet_socket(interface: &str) -> OwnedFd {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointers.
    let socket =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
    assert!(socket >= 0, "a packet socket needs root");
    // SAFETY: just made, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: zeros are an address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = nix::net::if_::if_nametoindex(interface).unwrap() as i32;
    let len = size_of_val(&address) as u32;
    // SAFETY: the address outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32);
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32);
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 500_000 });
    socket
}

fn mark(socket: &OwnedFd, mark: u32) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark);
}

pub fn set_option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) {
    let (value, len) = ((&raw const *value).cast(), size_of::<T>() as u32);
    // SAFETY: the value outlives the call and has the length given.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) };
    assert_eq!(set, 0, "option {name}: {}", std::io::Error::last_os_error());
}

pub fn send(socket: &OwnedFd, frame: &[u8]) {
    // SAFETY: the frame outlives the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

/// The next frame with a TCP segment, and its VLAN tag, which the kernel takes out of the frame.
pub fn receive(socket: &OwnedFd) -> Option<(Vec<u8>, Option<u16>)> {
    let (mut frame, mut control) = (vec![0u8; 70_000], [0u64; 16]);
    loop {
        let mut vector = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: zeros are a message without address and buffers.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the message's buffers outlive the call.
        let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
        if len < 0 {
            return None;
        }
        let frame = &frame[..len as usize];
        let is_tcp = frame.len() >= 54
            && (frame[12..14] == [8, 0] && frame[23] == 6
                || frame[12..14] == [0x86, 0xdd] && matches!(frame[20], 6 | 60));
        if !is_tcp {
            continue;
        }
        // SAFETY: the kernel filled the control buffer; the one kind of message asked for is `tpacket_auxdata`.
        let tag = unsafe {
            let control = libc::CMSG_FIRSTHDR(&raw const message);
            assert!(!control.is_null(), "the kernel tells of VLAN tags");
            libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned()
        };
        let is_tagged = tag.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
        return Some((frame.to_vec(), is_tagged.then_some(tag.tp_vlan_tci)));
    }
}
