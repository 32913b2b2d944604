//! Handshakes that come to nothing: each ends in a state that the operator can read in one line, is tried again with
//! longer and longer waits, leaves nothing behind, and fails closed.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_tests::{
    agent::Agent,
    bgp,
    binaries::binary,
    crowd::Crowd,
    frame::{Segment, flags},
    impair::Impairment,
    keys::Ends,
    kmp::{self, CHANNEL_PORT, Holdings, Mode},
    network::{INTERFACE, Network, Wire},
    process::run,
    scenario::{PASSWORD, Protected, neighbor, wait_attached},
    transfer::{self, Options},
    wait::eventually,
    wire,
};

/// How long the operator may have to wait for a failure to be told.
const SOON: Duration = Duration::from_secs(20);

/// The password is the key of the carrying connection, too: not even its SYN verifies.
#[test]
fn another_password() -> Result<()> {
    for mode in Mode::ALL {
        let network = Network::switched()?;
        let configs = [(&network.r2, PASSWORD), (&network.r1, "another")]
            .map(|(other, password)| kmp::config(other, password, &mode.fields("")));
        let scene = Scene::with(network, &configs[0], &configs[1])?;
        scene.does_not_connect(mode)?;
        let Protected { agent1, agent2, .. } = &scene.protected;
        let (peer1, peer2) = (scene.protected.peer1(), scene.protected.peer2());
        ensure!(agent1.dropped(&peer2, "wrong-mac")? + agent2.dropped(&peer1, "wrong-mac")? > 0);
        scene.leaves_nothing_behind()?;
    }
    Ok(())
}

#[test]
fn an_unknown_identity() -> Result<()> {
    for mode in Mode::ALL {
        // The client tells its identity, and either end may be it.
        let expecting = mode.fields("tls.peer-identity = \"nobody\"");
        let scene = Scene::of_fields(&expecting, &expecting)?;
        scene.does_not_connect(mode)?;
        // Which of the two it is, name or password, is not told to a stranger; the operator reads both words.
        scene.is_told(&[])?;
        scene.leaves_nothing_behind()?;
    }
    Ok(())
}

#[test]
fn identities_that_are_configured() -> Result<()> {
    for mode in Mode::ALL {
        let name = |own: &str, peer: &str| {
            mode.fields(&format!("tls.identity = \"{own}\", tls.peer-identity = \"{peer}\""))
        };
        let network = Network::switched()?;
        let protected = kmp::with_fields(network, &name("Zürich 1", "東京"), &name("東京", "Zürich 1"))?;
        let (client, server) = protected.ends();
        transfer::exchange_many(&client, &server, 3, 1, 10_000).with_context(|| mode.name())?;
        // The server alone learns a name: the client's.
        let tls = |agent: &Agent, peer: &str| -> Result<_> { Ok(agent.kmp(peer)?["tls"].to_string()) };
        let told = [tls(&protected.agent1, &protected.peer2())?, tls(&protected.agent2, &protected.peer1())?]
            .concat();
        ensure!(told.contains("Zürich 1") || told.contains("東京"), "no identity is told: {told}");
    }
    Ok(())
}

#[test]
fn no_common_suite() -> Result<()> {
    for mode in Mode::ALL {
        let suites = |name: &str| mode.fields(&format!("tls.suites = [\"{name}\"]"));
        let scene = Scene::of_fields(
            &suites("TLS_AES_128_GCM_SHA256"),
            &suites("TLS_DHE_PSK_WITH_AES_128_GCM_SHA256"),
        )?;
        scene.does_not_connect(mode)?;
        scene.is_told(&[])?;
        scene.leaves_nothing_behind()?;
    }
    Ok(())
}

#[test]
fn no_common_algorithm() -> Result<()> {
    for mode in Mode::ALL {
        let algorithms = |name: &str| mode.fields(&format!("algorithms = [\"{name}\"]"));
        let scene = Scene::of_fields(&algorithms("hmac-sha-1-96"), &algorithms("siphash-2-4-96"))?;
        scene.does_not_connect(mode)?;
        scene.is_told(&["algorithm"])?;
        scene.leaves_nothing_behind()?;
    }
    Ok(())
}

#[test]
fn an_expired_certificate() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (certificate, is_good) in [("good", true), ("expired", false)] {
        certify(folder.path(), certificate, is_good)?;
        for mode in Mode::ALL {
            let file = |name: &str| folder.path().join(name).display().to_string();
            let fields = mode.fields(&format!(
                "tls = {{ suites = [\"TLS_RSA_PSK_WITH_AES_128_GCM_SHA256\"], ca-file = \"{}\", \
                 certificate-file = \"{}\", certificate-key-file = \"{}\" }}",
                file(&format!("{certificate}.pem")),
                file(&format!("{certificate}.pem")),
                file(&format!("{certificate}.key"))
            ));
            let scene = Scene::of_fields(&fields, &fields)?;
            if is_good {
                let (client, server) = scene.protected.ends();
                transfer::exchange_many(&client, &server, 2, 1, 10_000).with_context(|| mode.name())?;
            } else {
                scene.does_not_connect(mode)?;
                scene.is_told(&["certificate"])?;
                scene.leaves_nothing_behind()?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_raw_public_key_with_another_fingerprint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let keys = ["first", "second", "third"].map(|name| RawKey::generate(folder.path(), name));
    let [first, second, third] = keys;
    let (first, second, third) = (first?, second?, third?);
    for mode in Mode::ALL {
        let fields = |own: &RawKey, peer: &RawKey| {
            mode.fields(&format!(
                "tls = {{ authentication = \"raw-public-key\", private-key-file = \"{}\", peer-fingerprint = \"{}\" }}",
                own.file, peer.fingerprint
            ))
        };
        let good =
            kmp::with_fields(Network::switched()?, &fields(&first, &second), &fields(&second, &first))?;
        let (client, server) = good.ends();
        transfer::exchange_many(&client, &server, 3, 1, 10_000).with_context(|| mode.name())?;
        drop(good);
        let scene = Scene::of_fields(&fields(&first, &third), &fields(&second, &first))?;
        scene.does_not_connect(mode)?;
        scene.is_told(&["fingerprint"])?;
        scene.leaves_nothing_behind()?;
    }
    Ok(())
}

/// A router that answers on the port of the channel, but not TLS; or nothing at all.
#[test]
fn garbage_on_the_channel() -> Result<()> {
    // Who knows the password can seal what is no TLS.
    let sealed_only = format!("key-management = \"implicit\", port = {CHANNEL_PORT}");
    let scene = Scene::of_fields(&Mode::External.fields(""), &sealed_only)?;
    let network = &scene.protected.network;
    let server = transfer::End {
        namespace: network.r2.namespace.clone(),
        address: SocketAddr::new(network.r2.v4.into(), CHANNEL_PORT),
    };
    let listener = transfer::listen(&server, network.r1.v4.into(), &Options::default())?;
    listener.set_nonblocking(true)?;
    let garbage: [&[u8]; 5] = [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x03\xff\xff",
        &[0; 70_000],
        b"\x15\x03\x03\x00\x02\x02\x28",
    ];
    let start = Instant::now();
    let mut answered = 0;
    let mut silent = Vec::new();
    while start.elapsed() < Duration::from_secs(40) {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false)?;
                let mut stream = TcpStream::from(socket);
                let _ = stream.write_all(garbage[answered % garbage.len()]);
                answered += 1;
                // One that says nothing is left open, too.
                silent.push(stream);
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
    println!("{answered} channels in 40 s");
    // Half a second at first, then longer and longer.
    ensure!((3..=12).contains(&answered), "{answered} channels in 40 s");
    scene.protected.agent1.wait_for_failure(&scene.protected.peer2(), SOON, &[])?;
    let (client, bgp) = scene.protected.ends();
    let options = Options { connect_limit: Some(Duration::from_secs(4)), ..Options::default() };
    ensure!(transfer::connect(&client, bgp.address, &options).is_err(), "it connected");
    drop((silent, listener));
    scene.leaves_nothing_behind()
}

/// The peer's kernel answers, its daemon stands still.
#[test]
fn a_daemon_that_stands_still() -> Result<()> {
    for mode in Mode::ALL {
        let mut protected = kmp::agreeing(Network::switched()?, mode, "")?;
        let (client, server) = protected.ends();
        transfer::exchange_many(&client, &server, 1, 1, 1000)?;
        protected.agent2.signal(libc::SIGSTOP)?;
        let options = Options { connect_limit: Some(Duration::from_secs(4)), ..Options::default() };
        let listener = transfer::listen(&server, client.address.ip(), &options)?;
        ensure!(
            transfer::connect(&client, server.address, &options).is_err(),
            "it connected without the daemon"
        );
        protected.agent2.signal(libc::SIGCONT)?;
        let near = eventually(Duration::from_secs(40), "a connection when it moves again", || {
            Ok(Some(transfer::connect(&client, server.address, &options)?))
        })?;
        let far = transfer::accept_other_end(&listener, &near)?;
        transfer::ping(&near, &far)?;
    }
    Ok(())
}

/// What was sent on the channel, sent again by somebody who heard it, to the same ports and later ones.
#[test]
fn a_channel_that_is_played_again() -> Result<()> {
    let network = Network::switched()?;
    let sniffer = network.sniff()?;
    let mut protected = kmp::agreeing(network, Mode::External, "")?;
    let (client, server) = protected.ends();
    transfer::exchange_many(&client, &server, 2, 1, 1000)?;
    let mut past = sniffer.segments();
    past.retain(|segment| kmp::is_of_channel(segment) && segment.source.ip() == protected.network.r1.v4);
    ensure!(past.iter().any(|segment| segment.flags == flags::SYN), "no SYN of a channel was heard");
    // Another channel: the old one is of the past.
    protected.agent1.end(libc::SIGKILL)?;
    protected.agent1.start_again()?;
    kmp::wait_for_channels(&protected)?;
    let Protected { agent2, network, .. } = &protected;
    let peer = protected.peer1();
    let before = (Holdings::of(agent2)?, agent2.dropped_in_all(&peer)?, agent2.agreed_keys()?.len());
    for _ in 0..20 {
        for segment in &past {
            wire::inject(network.attacker(), &network.r2, segment)?;
        }
    }
    thread::sleep(Duration::from_secs(2));
    ensure!(agent2.dropped_in_all(&peer)? > before.1 + 20, "nothing was dropped");
    ensure!(agent2.agreed_keys()?.len() == before.2, "keys were agreed on with the past");
    kmp::wait_for_channel(agent2, &peer)?;
    transfer::exchange_many(&client, &server, 2, 1, 1000)?;
    let sessions = before.0.sessions + 4;
    Holdings { sessions, descriptors: before.0.descriptors + 1, sockets: before.0.sockets + 1, ..before.0 }
        .wait_until_back(agent2, Duration::from_secs(40))
}

/// Killed with each of the first segments of a channel on its way, one daemon or the other.
#[test]
fn killed_at_every_step_of_a_channel() -> Result<()> {
    killed_at_every_step(Mode::External, 8, kmp::is_of_channel)
}

/// The same on the connection itself.
#[test]
fn killed_at_every_step_of_a_layered_handshake() -> Result<()> {
    killed_at_every_step(Mode::Layered, 12, kmp::is_of_bgp)
}

/// Nothing of before is left on either, and both begin at once.
#[test]
fn both_routers_reboot() -> Result<()> {
    for mode in Mode::ALL {
        let mut protected = kmp::agreeing(Network::switched()?, mode, "")?;
        for round in 0..3 {
            let (a, b) = bgp::birds(&protected.network)?;
            bgp::wait_for_routes(&a, &b, 10, 10)
                .with_context(|| format!("{}, round {round}", mode.name()))?;
            // Power is lost: no farewell.
            a.end(libc::SIGKILL)?;
            b.end(libc::SIGKILL)?;
            for agent in [&mut protected.agent1, &mut protected.agent2] {
                agent.end(libc::SIGKILL)?;
                fs::remove_dir_all(agent.pin_dir())?;
            }
            for agent in [&mut protected.agent1, &mut protected.agent2] {
                agent.start_again()?;
                wait_attached(agent, INTERFACE)?;
            }
        }
    }
    Ok(())
}

/// One that reboots alone finds a peer that knows of another life.
#[test]
fn one_router_reboots() -> Result<()> {
    for mode in Mode::ALL {
        let mut protected = kmp::agreeing(Network::switched()?, mode, "")?;
        for which in [1, 2] {
            let (a, b) = bgp::birds(&protected.network)?;
            bgp::wait_for_routes(&a, &b, 10, 10)?;
            let [bird, other] = if which == 1 { [a, b] } else { [b, a] };
            bird.end(libc::SIGKILL)?;
            let agent = if which == 1 { &mut protected.agent1 } else { &mut protected.agent2 };
            agent.end(libc::SIGKILL)?;
            fs::remove_dir_all(agent.pin_dir())?;
            agent.start_again()?;
            wait_attached(agent, INTERFACE)?;
            drop(other);
        }
        let (a, b) = bgp::birds(&protected.network)?;
        bgp::wait_for_routes(&a, &b, 10, 10)?;
    }
    Ok(())
}

/// With the file descriptors of few connections.
#[test]
fn many_connections_at_once() -> Result<()> {
    for mode in Mode::ALL {
        let protected = kmp::agreeing(Network::switched()?, mode, "")?;
        let (client, server) = protected.ends();
        transfer::exchange_many(&client, &server, 10, 10, 1000)?;
        let before = [Holdings::of(&protected.agent1)?, Holdings::of(&protected.agent2)?];
        transfer::exchange_many(&client, &server, 600, 60, 1000)?;
        for (agent, before) in [&protected.agent1, &protected.agent2].into_iter().zip(before) {
            // Those of sessions that closed are kept for two minutes.
            let sessions = before.sessions + 600;
            Holdings { sessions, ..before }.wait_until_back(agent, SOON).with_context(|| mode.name())?;
        }
        Ends::of(&protected).nothing_dropped_for(&["wrong-mac", "unknown-key-id", "wrong-length"])?;
    }
    Ok(())
}

/// A thousand neighbours have their sessions, lose them with both daemons, and come back all at once.
#[test]
fn a_thousand_neighbors_reconnect_at_once() -> Result<()> {
    let mut crowd = Crowd::new(1000, &Mode::External.fields(""))?;
    crowd.wait_for_channels()?;
    let start = Instant::now();
    drop(crowd.connect_all()?);
    println!("connected in {:.1?}", start.elapsed());
    let before = [Holdings::of(&crowd.agent1)?, Holdings::of(&crowd.agent2)?];
    for round in 0..2 {
        for agent in [&mut crowd.agent1, &mut crowd.agent2] {
            agent.end(libc::SIGKILL)?;
        }
        for agent in [&mut crowd.agent1, &mut crowd.agent2] {
            agent.start_again()?;
        }
        let start = Instant::now();
        let pairs = crowd.connect_all().with_context(|| format!("round {round}"))?;
        println!("connected without channels in {:.1?}", start.elapsed());
        for (near, far) in &pairs {
            transfer::ping(near, far)?;
        }
    }
    crowd.wait_for_channels()?;
    for (agent, before) in [&crowd.agent1, &crowd.agent2].into_iter().zip(before) {
        // Those of connections that closed are kept for two minutes: in each round one of BGP and up to two channels.
        let sessions = before.sessions + 2 * 3 * 1000;
        let kibibytes = before.kibibytes + 24 * 1024;
        Holdings { sessions, descriptors: before.descriptors + 2, sockets: before.sockets + 2, kibibytes }
            .wait_until_back(agent, SOON)?;
    }
    Ok(())
}

/// Two routers whose handshakes come to nothing.
struct Scene {
    protected: Protected,
    before: [Holdings; 2],
}

impl Scene {
    fn of_fields(fields1: &str, fields2: &str) -> Result<Self> {
        let network = Network::switched()?;
        let configs = [(&network.r2, fields1), (&network.r1, fields2)]
            .map(|(other, fields)| neighbor(&other.v4.to_string(), PASSWORD, fields));
        Self::with(network, &configs[0], &configs[1])
    }

    fn with(network: Network, config1: &str, config2: &str) -> Result<Self> {
        let protected = Protected::with(network, config1, config2)?;
        let before = [Holdings::of(&protected.agent1)?, Holdings::of(&protected.agent2)?];
        Ok(Self { protected, before })
    }

    /// Neither router's applications get a connection, nor is any of their octets sent.
    fn does_not_connect(&self, mode: Mode) -> Result<()> {
        let options = Options { connect_limit: Some(Duration::from_secs(5)), ..Options::default() };
        let sniffer = self.protected.network.sniff()?;
        let (first, second) = self.protected.ends();
        let with_port = |end: &transfer::End, port| {
            let address = SocketAddr::new(end.address.ip(), port);
            transfer::End { address, ..end.clone() }
        };
        for (client, server) in
            [(with_port(&first, 0), with_port(&second, 179)), (with_port(&second, 0), with_port(&first, 179))]
        {
            let _listener = transfer::listen(&server, client.address.ip(), &options)?;
            let start = Instant::now();
            let connected = transfer::connect(&client, server.address, &options);
            ensure!(connected.is_err(), "{}: it connected", mode.name());
            println!("{}: failed after {:.1?}", mode.name(), start.elapsed());
        }
        for segment in sniffer.segments() {
            let is_in_clear = kmp::is_of_bgp(&segment) && segment.tcp_ao().is_none();
            ensure!(!is_in_clear, "a segment without a MAC: {segment:?}");
        }
        Ok(())
    }

    /// A router at least says in its status and on its terminal why, in one line, with all of `words`.
    fn is_told(&self, words: &[&str]) -> Result<()> {
        let Protected { agent1, agent2, .. } = &self.protected;
        let (peer1, peer2) = (self.protected.peer1(), self.protected.peer2());
        eventually(SOON, &format!("the operator to be told with {words:?}"), || {
            let mut said = Vec::new();
            for (agent, peer) in [(agent1, &peer2), (agent2, &peer1)] {
                let failure = agent.kmp(peer)?["last_failure"].clone();
                let text = failure["text"].as_str().unwrap_or_default().to_owned();
                ensure!(text.lines().count() <= 1, "more than one line: {text}");
                if !text.is_empty() {
                    let shown = agent.tcpauth(&["status"])? + &agent.tcpauth(&["neighbor", "show", peer])?;
                    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                    ensure!(flat(&shown).contains(&flat(&text)), "{text}: not in {shown}");
                }
                said.push(text);
            }
            println!("{said:?}");
            let matches = |text: &String| {
                !text.is_empty() && words.iter().all(|word| text.to_lowercase().contains(word))
            };
            ensure!(said.iter().any(matches), "{said:?}");
            Ok(Some(()))
        })
    }

    fn leaves_nothing_behind(&self) -> Result<()> {
        for (agent, before) in [&self.protected.agent1, &self.protected.agent2].into_iter().zip(&self.before)
        {
            // A channel or a connection may be on its way just now, and entries of failed ones expire.
            let allowed = Holdings {
                descriptors: before.descriptors + 3,
                sockets: before.sockets + 3,
                sessions: before.sessions + 40,
                kibibytes: before.kibibytes,
            };
            allowed.wait_until_back(agent, SOON)?;
        }
        Ok(())
    }
}

/// Keeps back the segment `step` and all after it, kills, lets them go, starts again: a connection comes.
fn killed_at_every_step(
    mode: Mode,
    steps: u32,
    is_counted: impl Fn(&Segment) -> bool + Send + Clone + 'static,
) -> Result<()> {
    for which in [[true, false], [false, true]] {
        let network = Network::with(Wire::Impaired(Impairment::default()), 1500)?;
        let fields = mode.fields("");
        let mut protected = kmp::with_fields(network, &fields, &fields)?;
        for step in 1..=steps {
            let counter = Arc::new(AtomicU32::new(0));
            let (counted, is_counted) = (Arc::clone(&counter), is_counted.clone());
            kmp::forwarder(&protected)?.keep_back(move |segment| {
                is_counted(segment) && counted.fetch_add(1, Ordering::Relaxed) + 1 >= step
            });
            killed(&mut protected, mode, which).with_context(|| format!("step {step} of {which:?}"))?;
        }
        for agent in [&protected.agent1, &protected.agent2] {
            let now = Holdings::of(agent)?;
            ensure!(now.descriptors < 60, "{now:?}");
        }
    }
    Ok(())
}

fn killed(protected: &mut Protected, mode: Mode, which: [bool; 2]) -> Result<()> {
    let (client, server) = protected.ends();
    let options = Options { connect_limit: Some(Duration::from_secs(60)), ..Options::default() };
    let listener = transfer::listen(&server, client.address.ip(), &options)?;
    if mode == Mode::External {
        // A new channel.
        protected.agent1.end(libc::SIGKILL)?;
        protected.agent1.start_again()?;
    }
    let connecting = {
        let (client, address, options) = (client.clone(), server.address, options.clone());
        thread::spawn(move || transfer::connect(&client, address, &options))
    };
    // Some handshakes have fewer segments.
    let _ = eventually(Duration::from_secs(3), "the segment to be on the wire", || {
        Ok((kmp::forwarder(protected)?.kept() > 0).then_some(()))
    });
    for (agent, is_chosen) in [&mut protected.agent1, &mut protected.agent2].into_iter().zip(which) {
        if is_chosen {
            agent.end(libc::SIGKILL)?;
        }
    }
    kmp::forwarder(protected)?.release();
    thread::sleep(Duration::from_millis(300));
    for (agent, is_chosen) in [&mut protected.agent1, &mut protected.agent2].into_iter().zip(which) {
        if is_chosen {
            agent.start_again()?;
        }
    }
    let attempt = connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    // With a handshake on the connection itself it may have been reset; the next one is not.
    let near = match attempt {
        Ok(near) => near,
        Err(error) if mode == Mode::External => return Err(error),
        Err(_) => eventually(Duration::from_secs(40), "another connection", || {
            Ok(Some(transfer::connect(&client, server.address, &options)?))
        })?,
    };
    let far = transfer::accept_other_end(&listener, &near)?;
    transfer::exchange(near, far, 10_000)?;
    Ok(())
}

/// An Ed25519 key, and what a neighbour knows it by.
struct RawKey {
    file: String,
    fingerprint: String,
}

impl RawKey {
    fn generate(folder: &Path, name: &str) -> Result<Self> {
        let file = folder.join(name).display().to_string();
        let tcpauth = binary("tcpauth")?;
        let mut command = Command::new(&tcpauth);
        command.args(["genkey", "--raw-public-key", "--out", &file]);
        run(command)?;
        let mut command = Command::new(&tcpauth);
        command.args(["key", "fingerprint", &file]);
        Ok(Self { fingerprint: run(command)?.trim().to_owned(), file })
    }
}

/// A certificate `NAME.pem` that signs itself, with `NAME.key`, that is valid or was years ago.
fn certify(folder: &Path, name: &str, is_good: bool) -> Result<()> {
    let mut command = match is_good {
        true => Command::new("openssl"),
        false => {
            let mut past = Command::new("faketime");
            past.args(["2020-01-01 00:00:00", "openssl"]);
            past
        }
    };
    let (key, certificate) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pem")));
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=router"]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    run(command)?;
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}
