//! The same on an interface that carries bare IP packets, with this host's own stack at the end: what it hears, it
//! answers, as it has no socket, with a reset of the number that it heard.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    process::Command,
    time::{Duration, Instant},
};

use aya::programs::TcAttachType;
use tcpauth_common::{DropReason, layout::Session};

use super::{
    connection::{ACK, Connection, RST},
    lab::Lab,
    phases::{both_families, ours_behind, session, signed, theirs_behind},
    segment::Segment,
    wire::{ip, wait_until},
};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: u16 = 1;
const IFF_NO_PI: u16 = 0x1000;
/// What a bare packet is put behind to be read as a frame.
const ETHERNET: usize = 14;

/// A tunnel whose other end is the test, and the lane.
struct Tunnel {
    lab: Lab,
    ifindex: u32,
    wire: File,
}

impl Tunnel {
    fn new(connection: &Connection) -> Self {
        let mut lab = Lab::with(connection, None);
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let wire = options.open("/dev/net/tun").unwrap();
        // struct ifreq: a name, then the flags.
        let mut request = [0u8; 40];
        request[..4].copy_from_slice(b"tun0");
        request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
        // SAFETY: the request outlives the call and is as long as `struct ifreq`.
        let set = unsafe { libc::ioctl(wire.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        ip("link add lane0 type veth peer name lane1");
        // As the daemon has it: checksums are filled in on the way.
        let off = Command::new("ethtool").args(["-K", "lane0", "tx", "off"]).output().unwrap();
        assert!(off.status.success());
        for name in ["lane0", "lane1", "tun0"] {
            ip(&format!("link set {name} up"));
        }
        let nodad = if connection.local.is_ipv6() { " nodad" } else { "" };
        let bits = if connection.local.is_ipv6() { 64 } else { 24 };
        ip(&format!("addr add {}/{bits} dev tun0{nodad}", connection.local.ip()));
        let ifindex = nix::net::if_::if_nametoindex("tun0").unwrap();
        lab.use_lane("lane0", "lane1");
        lab.add_interface(ifindex);
        lab.attach("ingress_l3", "tun0", TcAttachType::Ingress);
        lab.attach("egress_l3", "tun0", TcAttachType::Egress);
        lab.attach("seal", "lane1", TcAttachType::Ingress);
        Self { lab, ifindex, wire }
    }

    fn arrive(&mut self, segment: &Segment) {
        self.wire.write_all(&segment.packet()).unwrap();
    }

    /// The next segment that leaves; `None` if there is none for half a second.
    fn leaving(&mut self) -> Option<Segment> {
        let (mut packet, begin) = (vec![0; 2000], Instant::now());
        while begin.elapsed() < Duration::from_millis(500) {
            let Ok(len) = self.wire.read(&mut packet) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let (ethertype, protocol_at) = if packet[0] >> 4 == 4 { ([8, 0], 9) } else { ([0x86, 0xdd], 6) };
            if packet[protocol_at] == 6 {
                let ethernet = [&[0; ETHERNET - 2][..], &ethertype].concat();
                return Some(Segment::of_frame(&[&ethernet[..], &packet[..len]].concat()));
            }
        }
        None
    }
}

fn theirs(connection: &Connection, session: &Session) -> Segment {
    let theirs = Segment { ack: ours_behind(), ..connection.inbound(ACK, theirs_behind()) };
    signed(connection, session, theirs)
}

#[test]
fn an_open_connection_is_translated_both_ways() {
    for connection in both_families() {
        let mut tunnel = Tunnel::new(&connection);
        // By itself, or because the segment opens it.
        for phase in [Session::OPEN, Session::SWITCHING] {
            let session = session(&connection, phase);
            tunnel.lab.put(&connection, &session);
            tunnel.arrive(&theirs(&connection, &session));
            let answer = tunnel.leaving().unwrap_or_else(|| panic!("{:?}", tunnel.lab.take_dropped()));
            assert_eq!((answer.flags, answer.seq), (RST, ours_behind()), "there and back");
            assert!(connection.accepts(&session.slots[0].send, &answer, 1));
            assert_eq!(tunnel.lab.session(&connection).unwrap().phase, Session::OPEN);
        }
    }
}

#[test]
fn a_handshake_is_the_daemons_and_a_failed_one_nobodys() {
    for connection in both_families() {
        let mut tunnel = Tunnel::new(&connection);
        let speaking = session(&connection, Session::HANDSHAKE);
        tunnel.lab.put(&connection, &speaking);
        let segment = theirs(&connection, &speaking);
        tunnel.arrive(&segment);
        let mut diverted = None;
        assert!(wait_until(|| {
            diverted = tunnel.lab.take_held_own();
            diverted.is_some()
        }));
        let (held, packet) = diverted.unwrap();
        assert_eq!(packet, segment.packet(), "octet for octet");
        assert_eq!((held.verified, held.ifindex, held.l3_offset), (1, tunnel.ifindex, 0));
        assert_eq!(usize::from(held.l4_offset), segment.l4() - ETHERNET);
        assert!(tunnel.leaving().is_none(), "the stack has not heard it");

        tunnel.lab.put(&connection, &session(&connection, Session::FAILED));
        tunnel.arrive(&segment);
        let refused = DropReason::Handshake as usize;
        assert!(wait_until(|| tunnel.lab.counters(connection.neighbor).dropped[refused] == 1));
        assert!(tunnel.leaving().is_none());
    }
}
