//! XDP comes before TC: what it lets through, tcpauth's programs see as it made it. What it sends by itself, and what
//! sockets send past the hook, leaves without a MAC.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Result, ensure};
use tcpauth_tests::{
    frame::{Segment, flags},
    network::{INTERFACE, Router},
    scenario::{Protected, wait_attached},
    transfer::{self, Options},
    wait::eventually,
    wire::{self, Sniffer},
    xdp::{Action, Mode, Program},
    xsk,
};

const NOTICE: Duration = Duration::from_secs(3);

#[test]
fn frames_that_xdp_passes_are_verified() -> Result<()> {
    for mode in [Mode::Generic, Mode::Native] {
        let live = Live::up()?;
        let _program = live.on_r1(mode, &Action::Pass)?;
        live.refuses_forged(|segment| live.frame_from_attacker(&segment))?;
        live.goes_on()?;
    }
    Ok(())
}

#[test]
fn frames_that_xdp_leads_to_another_cpu_are_verified() -> Result<()> {
    for mode in [Mode::Generic, Mode::Native] {
        let live = Live::up()?;
        let _program = live.on_r1(mode, &Action::LeadToCpu(0))?;
        live.refuses_forged(|segment| live.frame_from_attacker(&segment))?;
        live.goes_on()?;
    }
    Ok(())
}

/// Segments of another port, which tcpauth leaves alone, become those of a session before it sees them.
#[test]
fn segments_whose_port_xdp_turns_into_the_sessions_are_verified() -> Result<()> {
    for mode in [Mode::Generic, Mode::Native] {
        let live = Live::up()?;
        let _program = live.on_r1(mode, &Action::TurnPort(1790, 179))?;
        live.refuses_forged(|segment| {
            // The checksum is that of the port to be.
            let mut frame = live.frame_from_attacker(&segment);
            frame[34..36].copy_from_slice(&1790_u16.to_be_bytes());
            frame
        })?;
        live.goes_on()?;
    }
    Ok(())
}

/// All that arrives by eth0 arrives by another interface instead.
#[test]
fn frames_that_xdp_sends_into_another_interface_are_verified_there() -> Result<()> {
    let live = Live::up()?;
    let Protected { agent1, network, .. } = &live.protected;
    for (router, other) in [(&network.r1, &network.r2), (&network.r2, &network.r1)] {
        let (address, mac) = (other.v4.to_string(), other.mac_text());
        router.namespace.ip(&["neigh", "replace", &address, "lladdr", &mac, "dev", INTERFACE])?;
    }
    let r1 = &network.r1.namespace;
    r1.ip(&["link", "add", "there", "type", "veth", "peer", "name", "here"])?;
    r1.ip(&["link", "set", "here", "address", &network.r1.mac_text(), "up"])?;
    r1.ip(&["link", "set", "there", "up"])?;
    wait_attached(agent1, "here")?;
    let _program = live.on_r1(Mode::Generic, &Action::SendOutOf("there"))?;
    let arrived = Sniffer::start(r1, "here")?;
    live.refuses_forged(|segment| live.frame_from_attacker(&segment))?;
    live.goes_on()?;
    ensure!(!arrived.segments().is_empty(), "nothing arrived there: this shows nothing");
    Ok(())
}

/// A frame that says it is r1's is sent on by r1 itself: not signed for, and the peer refuses it.
#[test]
fn segment_that_xdp_sends_back_is_not_signed_and_refused_by_the_peer() -> Result<()> {
    let live = Live::up()?;
    let Protected { network, .. } = &live.protected;
    let forged = wire::forge(&live.last_segments()?.0, flags::RST, b"");
    // In its driver, a veth sends back only to an end that expects it.
    let _program = live.on_r1(Mode::Generic, &Action::SendBack)?;
    let (switch, port) = network.tap();
    live.r2_refuses(|| wire::inject_by(switch, port, &[forged.frame(network.r1.mac, network.r2.mac)]))
}

/// A packet socket's frame passes the hook like any other of this host. Past the queue there is no hook.
#[test]
fn segments_that_root_sends_past_the_hook_are_unsigned_and_refused_by_the_peer() -> Result<()> {
    let live = Live::up()?;
    let Protected { network, .. } = &live.protected;
    let r1 = &network.r1;
    let forged = wire::forge(&live.last_segments()?.0, flags::RST, b"");
    let frame = forged.frame(r1.mac, network.r2.mac);
    live.r2_refuses(|| wire::inject_past_queue(&r1.namespace, INTERFACE, std::slice::from_ref(&frame)))?;
    live.r2_refuses(|| xsk::send(&r1.namespace, INTERFACE, &frame))?;
    live.goes_on()?;
    let live = Live::up()?;
    let network = &live.protected.network;
    let ours = wire::forge(&live.last_segments()?.0, flags::ACK | flags::PSH, b"of root");
    let frame = ours.frame(network.r1.mac, network.r2.mac);
    wire::inject_by(&network.r1.namespace, INTERFACE, &[frame])?;
    let mut octets = [0; 7];
    (&live.far).read_exact(&mut octets)?;
    ensure!(&octets == b"of root", "{octets:?}");
    Ok(())
}

/// A connection of r1 with port 179 of r2 that is up, and what is on the wire.
struct Live {
    near: TcpStream,
    far: TcpStream,
    sniffer: Sniffer,
    protected: Protected,
}

impl Live {
    fn up() -> Result<Self> {
        let protected = Protected::switched()?;
        let sniffer = protected.network.sniff()?;
        let (client, server) = protected.ends();
        let (near, far) = transfer::pair(&client, &server, &Options::default())?;
        transfer::ping(&near, &far)?;
        Ok(Self { near, far, sniffer, protected })
    }

    fn on_r1(&self, mode: Mode, action: &Action) -> Result<Program> {
        Program::attach(&self.protected.network.r1.namespace, INTERFACE, mode, action)
    }

    /// The last segments of r1 and r2, once each has acknowledged the other's.
    fn last_segments(&self) -> Result<(Segment, Segment)> {
        let network = &self.protected.network;
        eventually(NOTICE, "the last segments on the wire", || {
            let segments = self.sniffer.segments();
            let last_of = |router: &Router| {
                let is_of = |segment: &&Segment| segment.source.ip() == router.v4;
                segments.iter().rfind(is_of).cloned()
            };
            Ok(last_of(&network.r1)
                .zip(last_of(&network.r2))
                .filter(|(first, second)| first.ack == second.next_seq() && second.ack == first.next_seq()))
        })
    }

    fn frame_from_attacker(&self, segment: &Segment) -> Vec<u8> {
        let network = &self.protected.network;
        segment.frame(network.attacker().mac, network.r1.mac)
    }

    /// r1 counts a reset and data without the option as such, each once.
    fn refuses_forged(&self, frame: impl Fn(Segment) -> Vec<u8>) -> Result<()> {
        let Protected { agent1, network, .. } = &self.protected;
        let (_, last) = self.last_segments()?;
        let peer = self.protected.peer2();
        let frames = [(flags::RST, &b""[..]), (flags::ACK | flags::PSH, b"forged")]
            .map(|(flags, data)| frame(wire::forge(&last, flags, data)));
        wire::inject_frames(network.attacker(), &frames)?;
        eventually(NOTICE, "the forged segments to be counted", || {
            let counted = agent1.dropped(&peer, "no-option")?;
            ensure!(counted == 2, "{counted} of 2 are");
            Ok(Some(()))
        })
    }

    /// r2 refuses what `send` sends as a segment without the option.
    fn r2_refuses(&self, send: impl FnOnce() -> Result<()>) -> Result<()> {
        let (agent2, peer) = (&self.protected.agent2, self.protected.peer1());
        let before = agent2.dropped(&peer, "no-option")?;
        send()?;
        eventually(NOTICE, "r2 to refuse it", || {
            Ok((agent2.dropped(&peer, "no-option")? == before + 1).then_some(()))
        })
    }

    /// The connection carries what its ends send and nothing else.
    fn goes_on(&self) -> Result<()> {
        for (mut from, mut to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            from.write_all(b"genuine")?;
            let mut octets = [0; 7];
            to.read_exact(&mut octets)?;
            ensure!(&octets == b"genuine", "{octets:?}");
        }
        Ok(())
    }
}
