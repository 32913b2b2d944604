//! Segments from a third party on the wire: each is dropped, counted exactly once, and harms nothing.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    bgp::{self, Bird, Speaker},
    frame::{self, Segment, flags, tcp_ao_option},
    network::Network,
    scenario::Protected,
    wait::eventually,
    wire::{self, Sniffer},
};

const NOTICE: Duration = Duration::from_secs(3);

#[test]
fn a_reset_without_the_option() -> Result<()> {
    Target::up("")?.refuses("no-option", |next| Segment { flags: flags::RST, ..next })
}

#[test]
fn data_without_the_option() -> Result<()> {
    Target::up("")?.refuses("no-option", |next| Segment { data: b"forged".to_vec(), ..next })
}

#[test]
fn a_reset_and_data_with_a_wrong_mac() -> Result<()> {
    let target = Target::up("")?;
    let option = || tcp_ao_option(1, 0x5a);
    target.refuses("wrong-mac", |next| Segment { flags: flags::RST, options: option(), ..next })?;
    target.refuses("wrong-mac", |next| Segment { data: b"forged".to_vec(), options: option(), ..next })
}

#[test]
fn a_syn_on_a_new_quartet_and_on_the_sessions_own() -> Result<()> {
    let target = Target::up("")?;
    let syn = |next: Segment, port: u16, options: Vec<u8>| Segment {
        source: SocketAddr::new(next.source.ip(), port),
        destination: SocketAddr::new(next.destination.ip(), 179),
        flags: flags::SYN,
        ack: 0,
        seq: 12345,
        options,
        ..next
    };
    target.refuses("no-option", |next| syn(next, 50_000, vec![]))?;
    target.refuses("wrong-mac", |next| syn(next, 50_001, tcp_ao_option(1, 0x5a)))?;
    let own = |next: Segment, options| Segment { flags: flags::SYN, ack: 0, seq: next.seq, options, ..next };
    target.refuses("no-option", |next| own(next, vec![]))?;
    target.refuses("wrong-mac", |next| own(next, tcp_ao_option(1, 0x5a)))
}

#[test]
fn an_option_that_is_not_right() -> Result<()> {
    let target = Target::up("")?;
    target.refuses("unknown-key-id", |next| Segment { options: tcp_ao_option(77, 0), ..next })?;
    let mut short = tcp_ao_option(1, 0);
    short[1] = 12;
    short.truncate(12);
    target.refuses("wrong-length", |next| Segment { options: short, ..next })?;
    let twice = [tcp_ao_option(1, 0), tcp_ao_option(1, 0)].concat();
    target.refuses("option-twice", |next| Segment { options: twice, ..next })
}

#[test]
fn a_segment_far_outside_the_window() -> Result<()> {
    Target::up("")?.refuses("outside-window", |next| Segment {
        seq: next.seq.wrapping_add(1 << 30),
        options: tcp_ao_option(1, 0x5a),
        ..next
    })
}

#[test]
fn a_segment_from_afar_with_ttl_security() -> Result<()> {
    let target = Target::up("ttl-security = 1")?;
    target.refuses("wrong-hop-limit", |next| Segment { hop_limit: 254, options: tcp_ao_option(1, 0), ..next })
}

#[test]
fn a_segment_of_no_session() -> Result<()> {
    Target::up("")?.refuses("no-session", |next| Segment {
        source: SocketAddr::new(next.source.ip(), 50_002),
        destination: SocketAddr::new(next.destination.ip(), 179),
        options: tcp_ao_option(1, 0x5a),
        ..next
    })
}

#[test]
fn a_fragment() -> Result<()> {
    let target = Target::up("")?;
    target.refuses_frame("fragment", |next, macs| {
        let mut frame = Segment { options: tcp_ao_option(1, 0x5a), ..next }.frame(macs.0, macs.1);
        frame::mark_fragment(&mut frame);
        frame
    })
}

#[test]
fn a_header_longer_than_its_segment() -> Result<()> {
    let target = Target::up("")?;
    target.refuses_frame("malformed", |next, macs| {
        let mut frame = Segment { options: tcp_ao_option(1, 0x5a), ..next }.frame(macs.0, macs.1);
        frame[14 + 20 + 12] = 0xf0;
        frame
    })
}

#[test]
fn an_icmp_error_about_the_session() -> Result<()> {
    let target = Target::up("")?;
    let attacker = target.protected.network.attacker().v4;
    target.refuses_frame("icmp", |next, macs| {
        // Protocol unreachable: the kernel would end the connection with an error (RFC 1122).
        let sent = Segment { source: next.destination, destination: next.source, seq: next.ack, ..next };
        frame::icmp_unreachable(&sent, 2, attacker, macs)
    })
}

/// The kernel takes off any number of tags with VLAN identifier 0 before it looks at the packet.
#[test]
fn data_behind_priority_tags() -> Result<()> {
    let target = Target::up("")?;
    for tags in [1, 2, 3, 8] {
        target.refuses_frame("no-option", |next, macs| {
            let frame = Segment { data: b"forged".to_vec(), ..next }.frame(macs.0, macs.1);
            frame::with_priority_tags(&frame, tags)
        })?;
    }
    // More than are followed: the frame is nobody's, so it is not counted, but it must not pass.
    let reset = Segment { flags: flags::RST, ..target.next()? };
    let network = &target.protected.network;
    let frame = reset.frame(network.attacker().mac, network.r1.mac);
    wire::inject_frames(network.attacker(), &[frame::with_priority_tags(&frame, 10)])?;
    target.is_unharmed()
}

#[test]
fn a_flood_of_syns_is_rate_limited() -> Result<()> {
    let target = Target::up("")?;
    let network = &target.protected.network;
    let next = target.next()?;
    let syn = |port| Segment {
        source: SocketAddr::new(next.source.ip(), port),
        destination: SocketAddr::new(next.destination.ip(), 179),
        flags: flags::SYN,
        ack: 0,
        options: tcp_ao_option(1, 0x5a),
        ..next.clone()
    };
    let (attacker, victim) = (network.attacker(), &network.r1);
    // Below the ports that the stack gives to clients: none is the neighbor's own.
    let ports = 20_000..24_000;
    let syns: Vec<_> = ports.clone().map(|port| syn(port).frame(attacker.mac, victim.mac)).collect();
    wire::inject_frames(attacker, &syns)?;
    let agent = &target.protected.agent1;
    let peer = target.protected.peer2();
    eventually(NOTICE, "all SYNs to be counted", || {
        let counted = agent.dropped(&peer, "wrong-mac")? + agent.dropped(&peer, "rate-limited")?;
        ensure!(counted == 4000, "{counted} of 4000 are");
        Ok(Some(()))
    })?;
    ensure!(agent.dropped(&peer, "rate-limited")? > 0, "none was rate-limited");
    for session in agent.sessions()? {
        let end: SocketAddr = session["peer"].as_str().context("a session without a peer")?.parse()?;
        ensure!(!ports.contains(&end.port()), "the flood left a session behind: {session}");
    }
    target.is_unharmed()
}

/// A session that is up, and someone who sends what is not his.
struct Target {
    a: Bird,
    b: Bird,
    incarnations: (String, String),
    sniffer: Sniffer,
    protected: Protected,
}

impl Target {
    fn up(more: &str) -> Result<Self> {
        let protected = Protected::over_v4(Network::switched()?, more)?;
        let (a, b) = bgp::birds(&protected.network)?;
        bgp::wait_for_routes(&a, &b, 10, 10)?;
        let incarnations = (a.incarnation()?, b.incarnation()?);
        let sniffer = protected.network.sniff()?;
        Ok(Self { a, b, incarnations, sniffer, protected })
    }

    /// An empty segment that r2 could send r1 next.
    fn next(&self) -> Result<Segment> {
        let network = &self.protected.network;
        let last = self.sniffer.next_from(&network.r2, &network.r1)?;
        Ok(wire::forge(&last, flags::ACK, b""))
    }

    fn refuses(&self, reason: &str, forge: impl FnOnce(Segment) -> Segment) -> Result<()> {
        self.refuses_frame(reason, |next, macs| forge(next).frame(macs.0, macs.1))
    }

    /// The frame is counted once as `reason`, is shown in events, and the session goes on.
    fn refuses_frame(
        &self,
        reason: &str,
        forge: impl FnOnce(Segment, ([u8; 6], [u8; 6])) -> Vec<u8>,
    ) -> Result<()> {
        let Protected { agent1, network, .. } = &self.protected;
        let peer = self.protected.peer2();
        let events = agent1.events()?;
        let before = (agent1.dropped(&peer, reason)?, agent1.dropped_in_all(&peer)?);
        let frame = forge(self.next()?, (network.attacker().mac, network.r1.mac));
        wire::inject_frames(network.attacker(), &[frame])?;
        eventually(NOTICE, &format!("{reason} to be counted"), || {
            Ok((agent1.dropped(&peer, reason)? > before.0).then_some(()))
        })?;
        let word = format!("\"{reason}\"");
        eventually(NOTICE, &format!("{reason} to be told"), || {
            Ok(events.log().contains(&word).then_some(()))
        })?;
        self.is_unharmed()?;
        let after = (agent1.dropped(&peer, reason)?, agent1.dropped_in_all(&peer)?);
        ensure!(after == (before.0 + 1, before.1 + 1), "{reason}, all: {before:?} became {after:?}");
        Ok(())
    }

    /// The session is the same as at first, and carries segments.
    fn is_unharmed(&self) -> Result<()> {
        std::thread::sleep(Duration::from_millis(1500));
        self.next()?;
        ensure!(self.a.is_established()? && self.b.is_established()?, "the session is down");
        let now = (self.a.incarnation()?, self.b.incarnation()?);
        ensure!(now == self.incarnations, "the session was down meanwhile");
        Ok(())
    }
}
