//! tcpauth on one side, the kernel's own TCP-AO on the other. Needs a kernel that has it, and says that it was not run
//! where it does not: `cargo xtask test --kernel 7.x native_peer` runs it in a virtual machine, and fetches BIRD 3, which
//! configures the kernel's TCP-AO as an operator would.
//! `TCPAUTH_TEST_MEGABYTES=500` before that sends as much each way, where it is 24 otherwise.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp::{self, Bird, Peering, Speaker},
    native::{self, NativeKey},
    network::{INTERFACE, Network, Router},
    process::run,
    scenario::{PASSWORD, end_at, neighbor, wait_attached},
    transfer::{self, Options},
    wait::eventually,
};

/// How long a change may take that goes with keepalives.
const PATIENCE: Duration = Duration::from_secs(30);
/// Routes that each BIRD announces.
const ROUTES: u32 = 10;
const FIRST: NativeKey = NativeKey { password: PASSWORD, algorithm: "hmac-sha-1-96", id: 1 };
const SECOND: NativeKey = NativeKey { password: "another secret", algorithm: "hmac-sha-256-96", id: 2 };

#[test]
fn native_peer_connects_and_is_connected_to() -> Result<()> {
    let Some(lab) = Lab::start()? else { return Ok(()) };
    for algorithm in ["hmac-sha-1-96", "aes-128-cmac-96", "hmac-sha-256-96"] {
        lab.agent.configure(&config(&lab.network, algorithm))?;
        lab.agent.tcpauth(&["reload"])?;
        let key = NativeKey { algorithm, ..FIRST };
        for timestamps in ["1", "0"] {
            lab.network.sysctl("net.ipv4.tcp_timestamps", timestamps)?;
            for family in Family::ALL {
                for native_listens in [true, false] {
                    lab.connect(family, native_listens, &key)
                        .and_then(|(ours, natives)| transfer::exchange(ours, natives, 256 << 10))
                        .with_context(|| {
                            format!(
                                "{algorithm}, {family:?}, timestamps {timestamps}, native listens: {native_listens}"
                            )
                        })?;
                }
            }
        }
    }
    lab.nothing_was_refused()
}

/// Without timestamps a segment that is refused is refused again whenever it is sent again.
#[test]
fn native_peer_takes_much_data_without_timestamps() -> Result<()> {
    let Some(lab) = Lab::start()? else { return Ok(()) };
    lab.network.sysctl("net.ipv4.tcp_timestamps", "0")?;
    let (ours, natives) = lab.connect(Family::V4, true, &FIRST)?;
    let megabytes = std::env::var("TCPAUTH_TEST_MEGABYTES").map_or(Ok(24), |text| text.parse())?;
    let took = transfer::exchange(ours, natives, megabytes << 20)?;
    println!("{megabytes} MiB each way in {took:.0?}");
    lab.nothing_was_refused()
}

/// Each side begins once. What a side asks for is what the other one sends with.
#[test]
fn native_peer_and_we_change_keys_and_algorithms() -> Result<()> {
    let Some(lab) = Lab::start()? else { return Ok(()) };
    for (family, native_begins) in [(Family::V4, false), (Family::V6, true)] {
        let peer = family.address(&lab.network.r2).to_string();
        let (ours, natives) = lab.connect(family, true, &FIRST)?;
        let algorithm = format!("--algorithm={}", SECOND.algorithm);
        lab.agent.add_key(&peer, SECOND.password, &["--key-id=2", &algorithm])?;
        native::add_key(&natives, family.address(&lab.network.r1), &SECOND)?;
        transfer::ping(&ours, &natives)?;
        for native_turn in [native_begins, !native_begins] {
            match native_turn {
                true => native::request_key(&natives, SECOND.id)?,
                false => lab.agent.roll_key(&peer)?,
            }
            transfer::ping(&ours, &natives)?;
            transfer::ping(&ours, &natives)?;
        }
        eventually(Duration::from_secs(10), "the session to be rolled", || {
            transfer::ping(&ours, &natives)?;
            let keys = lab.agent.keys(&peer)?;
            Ok((keys["rolled_sessions"] == 1).then_some(()))
        })?;
        lab.agent.retire_key(&peer, 0)?;
        transfer::exchange(ours, natives, 256 << 10)?;
    }
    lab.nothing_was_refused()
}

/// Once the daemon only, under its sessions, once all that this side knew.
#[test]
fn native_peer_outlives_our_kill_and_our_reboot() -> Result<()> {
    let Some(mut lab) = Lab::start()? else { return Ok(()) };
    for (family, native_listens) in [(Family::V4, true), (Family::V6, false)] {
        let (ours, natives) = lab.connect(family, native_listens, &FIRST)?;
        transfer::ping(&ours, &natives)?;
        lab.agent.end(libc::SIGKILL)?;
        transfer::ping(&ours, &natives)?;
        lab.agent.start_again()?;
        transfer::ping(&ours, &natives)?;
        lab.nothing_was_refused()?;

        transfer::vanish(ours)?;
        lab.agent.end(libc::SIGKILL)?;
        lab.agent.tcpauth(&["purge", "--yes"])?;
        lab.agent.start_again()?;
        wait_attached(&lab.agent, INTERFACE)?;
        let (ours, again) = lab.connect(family, native_listens, &FIRST)?;
        transfer::exchange(ours, again, 256 << 10)?;
        transfer::vanish(natives)?;
        lab.nothing_was_refused()?;
    }
    Ok(())
}

#[test]
fn native_peer_bird_has_sessions_whichever_end_connects() -> Result<()> {
    let Some(lab) = Lab::with_bird()? else { return Ok(()) };
    for (algorithm, family, native_listens) in [
        ("hmac-sha-1-96", Family::V4, true),
        ("aes-128-cmac-96", Family::V6, false),
        ("hmac-sha-256-96", Family::V4, false),
        ("hmac-sha-1-96", Family::V6, true),
    ] {
        lab.agent.configure(&config(&lab.network, algorithm))?;
        lab.agent.tcpauth(&["reload"])?;
        let (ours, natives) = lab.peerings(family, &[NativeKey { algorithm, ..FIRST }]);
        let ours = Peering { passive: !native_listens, ..ours };
        let natives = Peering { passive: native_listens, ..natives };
        lab.birds(&ours, &natives).with_context(|| format!("{algorithm}, {family:?}, {native_listens}"))?;
        lab.nothing_was_refused()?;
    }
    Ok(())
}

/// From either side once, to a key with another algorithm.
#[test]
fn native_peer_bird_and_we_change_keys_and_algorithms() -> Result<()> {
    for native_begins in [true, false] {
        let Some(lab) = Lab::with_bird()? else { return Ok(()) };
        let (ours, natives) = lab.peerings(Family::V4, &[FIRST]);
        let (a, b) = lab.birds(&ours, &natives)?;
        let algorithm = format!("--algorithm={}", SECOND.algorithm);
        let peer = lab.network.r2.v4.to_string();
        lab.agent.add_key(&peer, SECOND.password, &["--key-id=2", &algorithm])?;
        let with = |keys: &[NativeKey]| b.configure(&Peering { ao: keys.to_vec(), ..natives.clone() });
        with(&[FIRST, SECOND])?;
        for native_turn in [native_begins, !native_begins] {
            match native_turn {
                true => with(&[SECOND, FIRST])?,
                false => lab.agent.roll_key(&peer)?,
            }
        }
        // Keepalives carry the change.
        eventually(PATIENCE, "the session to be rolled", || {
            Ok((lab.agent.keys(&peer)?["rolled_sessions"] == 1).then_some(()))
        })?;
        lab.agent.retire_key(&peer, 0)?;
        with(&[SECOND])?;
        bgp::wait_for_routes(&a, &b, ROUTES, ROUTES)?;
        ensure!(a.incarnation()? == "1" && b.incarnation()? == "1", "the session was reset");
        lab.nothing_was_refused()?;
    }
    Ok(())
}

/// Nothing of the peer's old session is there any more when it comes back, and nothing told us of that.
#[test]
fn native_peer_bird_comes_back_after_its_reboot() -> Result<()> {
    let Some(lab) = Lab::with_bird()? else { return Ok(()) };
    let (ours, natives) = lab.peerings(Family::V4, &[FIRST]);
    let (a, b) = lab.birds(&ours, &natives)?;
    let namespace = &lab.network.r2.namespace;
    namespace.ip(&["link", "set", INTERFACE, "down"])?;
    b.end(libc::SIGKILL)?;
    let mut forget = namespace.command("ss");
    forget.args(["-K", "dst", &lab.network.r1.v4.to_string()]);
    run(forget)?;
    namespace.ip(&["link", "set", INTERFACE, "up"])?;
    let b = Bird::start(namespace, &natives)?;
    bgp::wait_for_routes(&a, &b, ROUTES, ROUTES)?;
    ensure!(a.incarnation()? != "1", "there is no new session");
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn address(self, router: &Router) -> IpAddr {
        match self {
            Self::V4 => router.v4.into(),
            Self::V6 => router.v6.into(),
        }
    }
}

/// Of `r1`, with `r2` as its neighbor over both families.
fn config(network: &Network, algorithm: &str) -> String {
    let algorithm = format!("algorithm = \"{algorithm}\"");
    let of = |family: Family| neighbor(&family.address(&network.r2).to_string(), PASSWORD, &algorithm);
    of(Family::V4) + &of(Family::V6)
}

/// `r1` with tcpauth, `r2` with the kernel's TCP-AO.
struct Lab {
    agent: Agent,
    network: Network,
}

impl Lab {
    /// `None` if this kernel has no TCP-AO.
    fn start() -> Result<Option<Self>> {
        if !native::is_there()? {
            println!("skipped: this kernel has no TCP-AO");
            return Ok(None);
        }
        let network = Network::switched()?;
        let agent = Agent::start(&network.r1.namespace, &config(&network, FIRST.algorithm))?;
        wait_attached(&agent, INTERFACE)?;
        Ok(Some(Self { agent, network }))
    }

    /// `None` if there is no BIRD 3 either.
    fn with_bird() -> Result<Option<Self>> {
        if !bgp::has_bird3() {
            println!("skipped: BIRD 3 is not there");
            return Ok(None);
        }
        Self::start()
    }

    /// Both ends of a BGP session, of which `r2`'s has these keys.
    fn peerings(&self, family: Family, keys: &[NativeKey]) -> (Peering, Peering) {
        let Network { r1, r2, .. } = &self.network;
        let (ours, natives) = Peering::between(family.address(r1), family.address(r2));
        (ours, Peering { ao: keys.to_vec(), ..natives })
    }

    /// BIRD on both sides, once it has the routes.
    fn birds(&self, ours: &Peering, natives: &Peering) -> Result<(Bird, Bird)> {
        let a = Bird::start(&self.network.r1.namespace, ours)?;
        let b = Bird::start(&self.network.r2.namespace, natives)?;
        bgp::wait_for_routes(&a, &b, ROUTES, ROUTES)?;
        Ok((a, b))
    }

    /// `r1`'s and `r2`'s end of a connection that `r1` opens if `native_listens`.
    fn connect(
        &self,
        family: Family,
        native_listens: bool,
        key: &NativeKey,
    ) -> Result<(TcpStream, TcpStream)> {
        let Network { r1, r2, .. } = &self.network;
        let with_tcpauth = Options::default();
        let with_native = Options { ao: Some(key.clone()), ..Options::default() };
        let (server, client, of_server, of_client) = match native_listens {
            true => (r2, r1, &with_native, &with_tcpauth),
            false => (r1, r2, &with_tcpauth, &with_native),
        };
        let end =
            |router: &Router, port| end_at(&router.namespace, SocketAddr::new(family.address(router), port));
        let (server, client) = (end(server, 179), end(client, 0));
        let listener = transfer::listen(&server, client.address.ip(), of_server)?;
        let near = transfer::connect(&client, server.address, of_client)?;
        let far = transfer::accept(&listener)?;
        Ok(if native_listens { (near, far) } else { (far, near) })
    }

    fn nothing_was_refused(&self) -> Result<()> {
        let refused = native::refused(&self.network.r2.namespace)?;
        ensure!(refused == 0, "the native side refused {refused} segments");
        for family in Family::ALL {
            let peer = family.address(&self.network.r2).to_string();
            let dropped = self.agent.dropped_in_all(&peer)?;
            ensure!(dropped == 0, "{dropped} dropped: {}", self.agent.neighbor(&peer)?);
        }
        Ok(())
    }
}
