//! Sessions whose peer vanished without a segment: they are known as such, and hold no key back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    bgp::{self, Speaker},
    keys::Ends,
    network::INTERFACE,
    scenario::Protected,
    transfer::{self, Options},
    wait::eventually,
};

#[test]
fn session_without_a_socket_holds_no_key_back_and_goes() -> Result<()> {
    let protected = Protected::switched()?;
    let (client, server) = protected.ends();
    let (near, far) = transfer::pair(&client, &server, &Options::default())?;
    transfer::ping(&near, &far)?;
    let Ends([end, other]) = &Ends::of(&protected);
    for end in [end, other] {
        end.agent.add_key(&end.peer, "another", &["--number=1", "--key-id=2"])?;
    }
    // Both hosts lose the connection, and no segment tells of it.
    transfer::vanish(near)?;
    transfer::vanish(far)?;
    for end in [end, other] {
        let sessions = end.agent.sessions()?;
        ensure!(sessions.len() == 1 && sessions[0]["state"] == "established", "{sessions:?}");
        end.agent.roll_key(&end.peer)?;
        eventually(Duration::from_secs(10), "the old key to be free", || {
            end.agent.retire_key(&end.peer, 0).map(Some)
        })?;
    }
    eventually(Duration::from_secs(150), "the session to go", || {
        Ok((end.agent.sessions()?.is_empty() && other.agent.sessions()?.is_empty()).then_some(()))
    })
}

#[test]
fn peer_that_crashes_with_its_link_holds_no_key_back() -> Result<()> {
    let protected = Protected::switched()?;
    let (a, b) = bgp::birds(&protected.network)?;
    bgp::wait_for_routes(&a, &b, 10, 10)?;
    let Ends([end, _]) = &Ends::of(&protected);
    end.agent.add_key(&end.peer, "another", &["--number=1", "--key-id=2"])?;
    protected.network.r2.namespace.ip(&["link", "set", INTERFACE, "down"])?;
    b.end(libc::SIGKILL)?;
    eventually(Duration::from_secs(20), "the hold time to end", || Ok((!a.is_established()?).then_some(())))?;
    end.agent.roll_key(&end.peer)?;
    // The stack goes on sending the FIN, which is not answered.
    eventually(Duration::from_secs(10), "the old key to be free", || {
        end.agent.retire_key(&end.peer, 0).map(Some)
    })?;
    let keys = end.agent.keys(&end.peer)?;
    ensure!(keys["open_sessions"].as_u64().context("no count")? == 0, "{keys}");
    Ok(())
}
