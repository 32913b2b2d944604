//! A captured connection, sent again whole while a later one of the same ports is up.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tcpauth_tests::{
    frame::{Segment, flags},
    network::Network,
    scenario::Protected,
    transfer::{self, Options},
    wait::eventually,
    wire::{self, Sniffer},
};

/// The client's ISN of the earlier connection.
const CLIENT_ISN: u32 = 1_000_000;

/// What the client sent in it, twice.
const OF_THE_PAST: &[u8] = b"of the past";

/// What it sends in the later one, which begins where the second half of the earlier one did, so that this is in
/// its window, and then is exactly where the earlier one ended.
const OF_THE_PRESENT: &[u8] = b"the present";

#[test]
fn a_connection_of_the_past_is_refused_where_both_isns_are_in_the_key() -> Result<()> {
    for more in ["kdf = \"rfc5926\"", "kdf = \"isn\""] {
        is_refused(more).with_context(|| more.to_owned())?;
    }
    Ok(())
}

/// What docs/security.md says of `static`.
#[test]
fn a_segment_of_the_past_resets_a_connection_under_a_static_key() -> Result<()> {
    let replay = Replay::new("key-management = \"static\"")?;
    let (past, (mut near, mut far)) = replay.past_and_later()?;
    let before = replay.counts()?;
    let (reset, others) = past.split_last().context("nothing was captured")?;
    let verified = |number: usize| Counts { verified: before.verified + number as u64, ..before };
    replay.send(others)?;
    replay.wait_for(&verified(others.len()))?;
    println!("{} segments of the past verified", others.len());
    // All are right for tcpauth, the data among them. TCP takes none, as they acknowledge another ISN of the server's.
    near.write_all(OF_THE_PRESENT)?;
    let mut octets = [0; OF_THE_PRESENT.len()];
    far.read_exact(&mut octets)?;
    ensure!(octets == OF_THE_PRESENT, "something else arrived: {octets:?}");
    // For a reset it does not look at that.
    thread::sleep(Duration::from_millis(300));
    replay.send(std::slice::from_ref(reset))?;
    far.set_read_timeout(Some(Duration::from_secs(3)))?;
    let end = far.read(&mut octets);
    ensure!(
        end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "the reset of the past was not taken: {end:?}"
    );
    ensure!(replay.counts()?.dropped == before.dropped, "something was dropped");
    Ok(())
}

fn is_refused(more: &str) -> Result<()> {
    let replay = Replay::new(more)?;
    let (past, later) = replay.past_and_later()?;
    let before = replay.counts()?;
    ensure!(before.dropped == 0, "{} segments were dropped before the replay", before.dropped);
    replay.send(&past[1..])?;
    // Each is counted once, none is verified.
    let refused = Counts { dropped: past.len() as u64 - 1, ..before };
    replay.wait_for(&refused)?;
    println!("{}", replay.protected.agent2.neighbor(&replay.protected.peer1())?["counters"]["dropped"]);
    transfer::ping(&later.0, &later.1)?;
    // The key of a SYN has the client's ISN only, so it verifies; TCP answers it with a challenge ACK at most.
    replay.send(&past[..1])?;
    thread::sleep(Duration::from_millis(500));
    ensure!(replay.counts()?.dropped == refused.dropped, "segments of the later connection were dropped");
    transfer::exchange(later.0, later.1, 1 << 20).context("the later connection, after a SYN of the past")?;
    Ok(())
}

/// Segments of the client that `r2` verified and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    verified: u64,
    dropped: u64,
}

/// Two routers, and someone who listens, remembers and repeats.
struct Replay {
    sniffer: Sniffer,
    protected: Protected,
}

impl Replay {
    fn new(more: &str) -> Result<Self> {
        let protected = Protected::over_v4(Network::switched()?, more)?;
        let sniffer = protected.network.sniff()?;
        Ok(Self { sniffer, protected })
    }

    /// All that the client sent in a connection that has ended, and a later connection of the same ports, which has
    /// carried nothing yet.
    fn past_and_later(&self) -> Result<(Vec<Segment>, (TcpStream, TcpStream))> {
        let (mut client, server) = self.protected.ends();
        client.address.set_port(40_000);
        let listener = transfer::listen(&server, client.address.ip(), &Options::default())?;
        let connect = |isn: u32| -> Result<_> {
            let options = Options { isn: Some(isn), ..Options::default() };
            let near = transfer::connect(&client, server.address, &options)?;
            Ok((near, transfer::accept(&listener)?))
        };
        let (mut near, mut far) = connect(CLIENT_ISN)?;
        let mut octets = [0; OF_THE_PAST.len()];
        for _ in 0..2 {
            near.write_all(OF_THE_PAST)?;
            far.read_exact(&mut octets)?;
            far.write_all(b"an answer")?;
            near.read_exact(&mut octets[..9])?;
        }
        // Ends without TIME-WAIT, so that the ports can be used again at once.
        SockRef::from(&near).set_linger(Some(Duration::ZERO))?;
        drop(near);
        ensure!(far.read(&mut octets).is_err(), "no reset");
        drop(far);
        thread::sleep(Duration::from_millis(200));
        let mut past = self.sniffer.segments();
        past.retain(|segment| segment.source == client.address);
        let (first, last) = (past.first().map(|first| first.flags), past.last().map(|last| last.flags));
        ensure!(first == Some(flags::SYN) && past.len() >= 5, "not a whole connection: {past:?}");
        ensure!(last.is_some_and(|last| last & flags::RST != 0), "it did not end with a reset: {past:?}");
        let later = connect(CLIENT_ISN + OF_THE_PAST.len() as u32)?;
        thread::sleep(Duration::from_millis(200));
        Ok((past, later))
    }

    /// Sends the server what the client once sent.
    fn send(&self, segments: &[Segment]) -> Result<()> {
        let network = &self.protected.network;
        let (attacker, target) = (network.attacker(), &network.r2);
        let frames: Vec<_> = segments.iter().map(|segment| segment.frame(attacker.mac, target.mac)).collect();
        wire::inject_frames(attacker, &frames)
    }

    fn counts(&self) -> Result<Counts> {
        let (agent, peer) = (&self.protected.agent2, self.protected.peer1());
        let verified =
            agent.neighbor(&peer)?["counters"]["verified_segments"].as_u64().context("no counter")?;
        Ok(Counts { verified, dropped: agent.dropped_in_all(&peer)? })
    }

    fn wait_for(&self, expected: &Counts) -> Result<()> {
        eventually(Duration::from_secs(3), &format!("{expected:?}"), || {
            let counts = self.counts()?;
            ensure!(counts == *expected, "{counts:?}");
            Ok(Some(()))
        })
    }
}
