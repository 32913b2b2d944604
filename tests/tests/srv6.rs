//! Packets inside of packets for a segment of SRv6: the kernel unpacks them between the link's program and TCP.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering, Speaker},
    frame::{self, Extension, Segment, flags},
    namespace::Namespace,
    network::{INTERFACE, Network, veth},
    scenario::{PASSWORD, Protected, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    wait::eventually,
    wire,
};

const SOON: Duration = Duration::from_secs(5);
/// r2 unpacks IPv6 that is sent there, and looks for its way in its table of local addresses.
const UNPACKS_IPV6: Ipv6Addr = Ipv6Addr::new(0xfc00, 2, 0, 0, 0, 0, 0, 0xd6);
/// r2 unpacks IPv4 that is sent there, and sends it to itself.
const UNPACKS_IPV4: Ipv6Addr = Ipv6Addr::new(0xfc00, 2, 0, 0, 0, 0, 0, 0xd4);

/// A source from which the kernel forwards nothing, but from which it unpacks.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x666);

/// A frame of a forged segment, as the attacker sends it.
type Packed = fn(&[u8], Ipv6Addr, Ipv6Addr) -> Vec<u8>;

/// Those that are counted, as the segment can be found.
const FOUND: [(&str, Packed); 5] = [
    ("alone", |frame, from, to| frame::inside_ipv6(frame, from, to, &[])),
    ("options", |frame, from, to| frame::inside_ipv6(frame, from, to, &options(3))),
    ("routing", |frame, from, to| frame::inside_ipv6(frame, from, to, &[routing(to)])),
    ("twice", |frame, from, to| {
        let once = frame::inside_ipv6(frame, from, to, &[]);
        frame::inside_ipv6(&once, from, UNPACKS_IPV6, &[])
    }),
    ("first fragment", |frame, from, to| {
        frame::inside_ipv6(frame, from, to, &[(44, vec![0, 0, 0, 1, 0, 0, 0, 9])])
    }),
];

/// Those in which nobody can tell whose the segment is.
const HIDDEN: [(&str, Packed); 3] = [
    ("many options", |frame, from, to| frame::inside_ipv6(frame, from, to, &options(7))),
    ("authentication header", |frame, from, to| {
        frame::inside_ipv6(frame, from, to, &[(51, vec![0, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1])])
    }),
    ("six times", |frame, from, to| {
        let once = frame::inside_ipv6(frame, from, to, &[]);
        (0..5).fold(once, |inner, _| frame::inside_ipv6(&inner, from, UNPACKS_IPV6, &[]))
    }),
];

#[test]
fn forged_segments_that_srv6_unpacks_are_dropped() -> Result<()> {
    let network = Network::switched()?;
    let addresses: [(IpAddr, IpAddr, Ipv6Addr); 2] = [
        (network.r1.v4.into(), network.r2.v4.into(), UNPACKS_IPV4),
        (network.r1.v6.into(), network.r2.v6.into(), UNPACKS_IPV6),
    ];
    let configs = [|pair: &(IpAddr, IpAddr, Ipv6Addr)| pair.1, |pair: &(IpAddr, IpAddr, Ipv6Addr)| pair.0]
        .map(|end| {
            addresses.iter().map(|pair| neighbor(&end(pair).to_string(), PASSWORD, "")).collect::<String>()
        });
    unpack(&network.r2.namespace, &network.r2.v4.to_string())?;
    let protected = Protected::with(network, &configs[0], &configs[1])?;
    let Protected { agent2, network, .. } = &protected;
    let attacker = network.attacker();
    let sniffer = network.sniff()?;
    for (r1, r2, segment_id) in addresses {
        let (first, second) = Peering::between(r1, r2);
        let birds =
            (Bird::start(&network.r1.namespace, &first)?, Bird::start(&network.r2.namespace, &second)?);
        bgp::wait_for_routes(&birds.0, &birds.1, 10, 10)?;
        let incarnations = (birds.0.incarnation()?, birds.1.incarnation()?);
        let reset = || -> Result<Vec<u8>> {
            let last = sniffer.next(Duration::from_secs(20), "a segment of the session", |segment| {
                segment.source.ip() == r1
                    && segment.flags & (flags::SYN | flags::RST | flags::ACK) == flags::ACK
            })?;
            Ok(wire::forge(&last, flags::RST | flags::ACK, b"").frame(attacker.mac, network.r2.mac))
        };
        let is_unharmed = |what: &str| -> Result<()> {
            std::thread::sleep(Duration::from_millis(300));
            let now = (birds.0.incarnation()?, birds.1.incarnation()?);
            let is_up = birds.0.is_established()? && birds.1.is_established()?;
            ensure!(is_up && now == incarnations, "{what}: the session was down");
            Ok(())
        };
        let peer = r1.to_string();
        for from in [attacker.v6, LINK_LOCAL] {
            for (what, packed) in FOUND {
                let before = agent2.dropped(&peer, "no-option")?;
                wire::inject_frames(attacker, &[packed(&reset()?, from, segment_id)])?;
                eventually(SOON, &format!("{what} from {from} for {r2} to be counted"), || {
                    Ok((agent2.dropped(&peer, "no-option")? == before + 1).then_some(()))
                })?;
                is_unharmed(what)?;
            }
            for (what, packed) in HIDDEN {
                wire::inject_frames(attacker, &[packed(&reset()?, from, segment_id)])?;
                is_unharmed(what)?;
            }
        }
    }
    Ok(())
}

/// The router between packs what r1 sends, and r2 unpacks it: verified in its place.
#[test]
fn a_session_that_srv6_unpacks_is_protected() -> Result<()> {
    let transit = Namespace::create("transit")?;
    let routers = [Namespace::create("r1")?, Namespace::create("r2")?];
    transit.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for (number, router) in routers.iter().enumerate() {
        let port = format!("to-r{}", number + 1);
        router.ip(&veth(INTERFACE, &transit, &port))?;
        router.ip(&["-6", "address", "add", &format!("2001:db8:{number}::1/64"), "dev", INTERFACE])?;
        router.ip(&["link", "set", INTERFACE, "up"])?;
        transit.ip(&["-6", "address", "add", &format!("2001:db8:{number}::fe/64"), "dev", &port])?;
        transit.ip(&["link", "set", &port, "up"])?;
        router.ip(&["-6", "route", "add", "default", "via", &format!("2001:db8:{number}::fe")])?;
    }
    let [r1, r2] = &routers;
    // Room for the headers that are put in front.
    transit.ip(&["link", "set", "to-r2", "mtu", "1600"])?;
    r2.ip(&["link", "set", INTERFACE, "mtu", "1600"])?;
    r2.ip(&["-6", "address", "add", "2001:db8:9::2/128", "dev", "lo"])?;
    unpack(r2, "127.0.0.1")?;
    let to_r2 = UNPACKS_IPV6.to_string();
    transit.ip(&["-6", "route", "add", &format!("{to_r2}/128"), "via", "2001:db8:1::1"])?;
    let encap = ["encap", "seg6", "mode", "encap", "segs", &to_r2, "dev", "to-r2"];
    transit.ip(&[&["-6", "route", "add", "2001:db8:9::2/128"], &encap[..]].concat())?;
    let agent1 = Agent::start(r1, &neighbor("2001:db8:9::2", PASSWORD, ""))?;
    let agent2 = Agent::start(r2, &neighbor("2001:db8:0::1", PASSWORD, ""))?;
    wait_attached(&agent1, INTERFACE)?;
    wait_attached(&agent2, INTERFACE)?;
    let client = end_at(r1, "[2001:db8:0::1]:0".parse()?);
    let server = end_at(r2, "[2001:db8:9::2]:179".parse()?);
    let sniffer = wire::Sniffer::start(r2, INTERFACE)?;
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20)?;
    ensure!(agent2.dropped_in_all("2001:db8::1")? == 0, "{}", agent2.neighbor("2001:db8::1")?);
    let is_from_r1 = |segment: &Segment| segment.source.ip() == client.address.ip();
    ensure!(!sniffer.segments().iter().any(is_from_r1), "they were not packed: this shows nothing");
    let session = agent2.sessions()?.into_iter().next().context("no session")?;
    ensure!(session["peer"].to_string().contains("2001:db8::1"), "{session}");
    Ok(())
}

/// Has a host unpack what is sent to [`UNPACKS_IPV6`], and to [`UNPACKS_IPV4`], which goes to `address` of it.
fn unpack(host: &Namespace, address: &str) -> Result<()> {
    host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let actions: [(Ipv6Addr, &[&str]); 2] =
        [(UNPACKS_IPV6, &["End.DT6", "table", "255"]), (UNPACKS_IPV4, &["End.DX4", "nh4", address])];
    for (segment_id, action) in actions {
        let route = ["-6", "route", "add", &format!("{segment_id}/128"), "encap", "seg6local", "action"];
        host.ip(&[&route[..], action, &["dev", INTERFACE]].concat())?;
    }
    Ok(())
}

/// Headers of destination options that say nothing.
fn options(count: usize) -> Vec<Extension> {
    vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]); count]
}

/// A routing header whose last segment is reached.
fn routing(segment_id: Ipv6Addr) -> Extension {
    (43, [&[0, 2, 4, 0, 0, 0, 0, 0][..], &segment_id.octets()].concat())
}
