//! A daemon killed at each stage of a handshake, or too slow for it.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use tcpauth_tests::{
    agent::Agent,
    frame::{Segment, flags},
    impair::{Forwarder, Impairment},
    network::{Network, Wire},
    scenario::Protected,
    transfer::{self, End, Options},
    wait::eventually,
};

const SYN_ACK: u8 = flags::SYN | flags::ACK;

#[test]
fn killed_while_the_syn_is_on_its_way() -> Result<()> {
    killed_at(|segment| segment.flags == flags::SYN, [true, false])?;
    killed_at(|segment| segment.flags == flags::SYN, [false, true])
}

#[test]
fn killed_while_the_syn_ack_is_on_its_way() -> Result<()> {
    killed_at(|segment| segment.flags & SYN_ACK == SYN_ACK, [true, false])?;
    killed_at(|segment| segment.flags & SYN_ACK == SYN_ACK, [false, true])
}

#[test]
fn killed_while_the_last_ack_is_on_its_way() -> Result<()> {
    let ack = |segment: &Segment| segment.flags == flags::ACK && segment.destination.port() == 179;
    killed_at(ack, [true, false])?;
    killed_at(ack, [false, true])
}

#[test]
fn both_killed_while_the_syn_ack_is_on_its_way() -> Result<()> {
    killed_at(|segment| segment.flags & SYN_ACK == SYN_ACK, [true, true])
}

/// A SYN held while the daemon stands still is stale when it moves again: counted, and not sent.
#[test]
fn a_daemon_that_stands_still() -> Result<()> {
    let mut protected = Protected::switched()?;
    let (client, server) = protected.ends();
    protected.agent1.signal(libc::SIGSTOP)?;
    let options = Options { connect_limit: Some(Duration::from_millis(1500)), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &options)?;
    ensure!(transfer::connect(&client, server.address, &options).is_err(), "it connected without the daemon");
    thread::sleep(Duration::from_millis(3500));
    protected.agent1.signal(libc::SIGCONT)?;
    let peer = protected.peer2();
    eventually(Duration::from_secs(5), "the SYNs to be counted as held too long", || {
        Ok((protected.agent1.dropped(&peer, "held-too-long")? > 0).then_some(()))
    })?;
    let near = transfer::connect(&client, server.address, &Options::default())?;
    transfer::ping(&near, &transfer::accept(&listener)?)
}

/// Keeps a segment of the handshake back on the wire, kills daemons, lets it go, starts them again: the
/// connection comes up all the same, by TCP's own retransmissions.
fn killed_at(stage: impl Fn(&Segment) -> bool + Send + 'static, which: [bool; 2]) -> Result<()> {
    let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
    let mut protected = Protected::over_v4(network, "")?;
    let (client, server) = protected.ends();
    let options = Options { connect_limit: Some(Duration::from_secs(40)), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &options)?;
    forwarder(&protected)?.keep_back(stage);
    let connecting = connect(client, server, options);
    eventually(Duration::from_secs(10), "the segment to be on the wire", || {
        Ok((forwarder(&protected)?.kept() > 0).then_some(()))
    })?;
    let chosen = |protected: &mut Protected, work: fn(&mut Agent) -> Result<()>| -> Result<()> {
        for (agent, is_chosen) in [&mut protected.agent1, &mut protected.agent2].into_iter().zip(which) {
            if is_chosen {
                work(agent)?;
            }
        }
        Ok(())
    };
    chosen(&mut protected, |agent| agent.end(libc::SIGKILL))?;
    forwarder(&protected)?.release();
    thread::sleep(Duration::from_secs(1));
    chosen(&mut protected, |agent| agent.start_again().map(drop))?;
    let near = connecting.join().map_err(|_| anyhow!("the client panicked"))??;
    let far = transfer::accept(&listener)?;
    transfer::ping(&near, &far)
}

fn connect(client: End, server: End, options: Options) -> thread::JoinHandle<Result<TcpStream>> {
    thread::spawn(move || transfer::connect(&client, server.address, &options))
}

fn forwarder(protected: &Protected) -> Result<&Forwarder> {
    let middle = protected.network.middle.as_ref();
    middle.and_then(|middle| middle.forwarder.as_ref()).context("the wire has no forwarder")
}
