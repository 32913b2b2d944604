//! The lane, in which segments are signed: what others change about it is put right, and what they send into it is not
//! signed.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use tcpauth_tests::{
    link,
    scenario::Protected,
    transfer::{self, Options},
    wait::eventually,
};

const LANE: [&str; 2] = ["tcpauth-lane0", "tcpauth-lane1"];
const OCTETS: u64 = 32 << 20;
/// Of upkeep, with some patience.
const ROUND: Duration = Duration::from_secs(20);

#[test]
fn offloads_of_the_lane_are_turned_off_again_under_a_bulk_transfer() -> Result<()> {
    let protected = Protected::switched()?;
    let r1 = &protected.network.r1.namespace;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| transfer::send_one_way(&near, &far, OCTETS));
        for end in LANE {
            link::enable_offloads(r1, end)?;
        }
        for end in LANE {
            eventually(ROUND, &format!("offloads of {end} to be off"), || {
                Ok((!link::has_offloads(r1, end)?).then_some(()))
            })?;
        }
        transfer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let log = protected.agent1.log();
    // Which one it is that the daemon sees first, depends on how fast it is.
    ensure!(log.contains(" of tcpauth-lane0 is on"), "the log does not tell: {log}");
    Ok(())
}

#[test]
fn lane_that_others_changed_is_put_right_and_made_anew() -> Result<()> {
    let protected = Protected::switched()?;
    let r1 = &protected.network.r1.namespace;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    ensure!(!protected.agent1.log().contains("somebody changed the lane"), "something changed by itself");
    for (change, told) in [
        (&["link", "set", LANE[0], "mtu", "1400"][..], "tcpauth-lane0 has MTU 1400"),
        (&["link", "set", LANE[1], "mtu", "1400"], "tcpauth-lane1 has MTU 1400"),
        (&["link", "set", LANE[0], "down"], "tcpauth-lane0 is down"),
        (&["link", "set", LANE[1], "down"], "tcpauth-lane1 is down"),
        (&["link", "set", LANE[1], "arp", "on"], "tcpauth-lane1 does ARP"),
        (&["link", "delete", LANE[1]], "tcpauth-lane0 is gone"),
    ] {
        r1.ip(change)?;
        eventually(ROUND, &format!("{told} in the log"), || {
            Ok(protected.agent1.log().contains(told).then_some(()))
        })?;
        transfer::ping(&near, &far).with_context(|| format!("after {told}"))?;
    }
    transfer::exchange(near, far, 1 << 20).context("the session of before")?;
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::exchange(near, far, 1 << 20).context("a session of after")?;
    let status = protected.agent1.status()?;
    let states: Vec<_> = status["interfaces"].as_array().into_iter().flatten().collect();
    ensure!(states.iter().all(|interface| interface["failing"] != true), "{states:?}");
    Ok(())
}

#[test]
fn end_of_the_lane_that_was_renamed_is_not_taken_for_an_interface() -> Result<()> {
    let protected = Protected::switched()?;
    let r1 = &protected.network.r1.namespace;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    eventually(ROUND, "the end to be renamed", || {
        // Linux before 6.2 renames none that is up, and the daemon puts it up again.
        r1.ip(&["link", "set", LANE[0], "down"])?;
        Ok(r1.ip(&["link", "set", LANE[0], "name", "renamed"]).is_ok().then_some(()))
    })?;
    eventually(ROUND, "the log to tell", || {
        Ok(protected.agent1.log().contains("tcpauth-lane0 was renamed").then_some(()))
    })?;
    transfer::exchange(near, far, 1 << 20)?;
    let log = protected.agent1.log();
    ensure!(!log.contains("interface=\"renamed\""), "{log}");
    Ok(())
}

#[test]
fn socket_bound_to_the_lane_opens_no_connection() -> Result<()> {
    let protected = Protected::switched()?;
    let network = &protected.network;
    let sniffer = network.sniff()?;
    let server: SocketAddr = (network.r2.v4, 179).into();
    let _socket = network.r1.namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind_device(Some(LANE[0].as_bytes()))?;
        socket.bind(&SocketAddr::from((network.r1.v4, 0)).into())?;
        socket.set_nonblocking(true)?;
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            other => anyhow::bail!("connect: {other:?}"),
        }
    })?;
    // The SYN is sent again after one second.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(protected.agent1.sessions()?.is_empty(), "a session of it: {:?}", protected.agent1.sessions()?);
    ensure!(sniffer.segments().is_empty(), "it left: {:?}", sniffer.segments());
    Ok(())
}
