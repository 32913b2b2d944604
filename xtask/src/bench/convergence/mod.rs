//! A full table from one BIRD to another, and a smaller one to GoBGP.

mod control;
mod routes;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tcpauth_common::Algorithm;
use tcpauth_tests::{
    bgp::{Bird, GoBgp, Peering, Speaker},
    network::{Network, Wire},
    wait::{check_interrupted, eventually},
};

use self::control::Control;
use super::{
    Effort, Measured, Report,
    cpu::CpuTime,
    programs::{RunTimes, each_run},
    subject::{NONE, Subject, TCP_MD5},
    table::Table,
};

/// What tcpauth is measured with.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::HmacSha1_96, Algorithm::SipHash2_4_96];

/// How long a table may take.
const LIMIT: Duration = Duration::from_secs(600);

/// BIRD 2.0 may sleep for up to three seconds with updates left to send and room to send them; any command wakes it.
const AWAKE: Duration = Duration::from_millis(2);

/// Who is sent the table.
enum Receiver {
    Bird { control: Control, _bird: Bird },
    GoBgp(GoBgp),
}

/// Two routers with their BGP speakers.
struct Pair {
    speakers: Speakers,
    subject: Subject,
}

/// Two BGP speakers, of which one has the table, and no session yet.
struct Speakers {
    /// The subject's.
    name: &'static str,
    sender: Control,
    receiver: Receiver,
    _bird: Bird,
}

pub fn measure(effort: &Effort) -> Result<Report> {
    let mut report = Report::default();
    report.note(
        "A generated table (prefix lengths, AS paths and communities as in real ones), which BIRD has read before; the \
         time from Established to the last route, as the receiver tells it.",
    );
    report.note(
        "The sender is asked for its status all the while: BIRD 2.0 otherwise sleeps up to three seconds, with updates \
         left to send, whatever authenticates the session.",
    );
    report.note(
        "CPU time is that of the whole machine meanwhile, both routers and what authenticates; the sending BIRD, on one \
         CPU, is what all the others wait for.",
    );
    let bird = transfers(effort, "BIRD", effort.routes, Receiver::bird)?;
    for algorithm in ALGORITHMS {
        let what = format!("{}: convergence against none, BIRD, {} routes", algorithm.name(), effort.routes);
        let ratio = bird.tables.first().and_then(|time| time.ratio(algorithm.name())).unwrap_or(f64::NAN);
        report.measured.push(Measured::new(what, ratio, "").aims_at_most(1.03));
    }
    report.append(bird);
    report.append(transfers(effort, "GoBGP", effort.gobgp_routes, Receiver::gobgp)?);
    if effort.gobgp_routes < effort.routes {
        report.note(format!(
            "GoBGP is sent {} routes only: it takes much longer than BIRD, for each route the more it has (for a million \
             more than three minutes), and is asked by its command ten times a second.",
            effort.gobgp_routes
        ));
    }
    Ok(report)
}

/// Tables of time and of CPU time, and what runs of the programs took in one transfer more.
fn transfers(
    effort: &Effort,
    name: &str,
    count: u32,
    receiver: fn(&Subject) -> Result<Receiver>,
) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    routes::write(count, folder.path())?;
    // All senders read the table at the same time.
    let mut senders = Vec::new();
    for subject in subjects()? {
        let (sending, _) = peerings(&subject);
        let bird = Bird::launch(&subject.network().r1.namespace, &config(&sending, Some(folder.path())))?;
        senders.push((bird, subject));
    }
    let pairs = senders.into_iter().map(|(bird, subject)| Pair::new(bird, subject, receiver));
    let mut pairs = pairs.collect::<Result<Vec<_>>>()?;
    let mut time = Table::new(format!("convergence, {count} routes, to {name}"), "s");
    let mut cpu = Table::new(format!("convergence, {count} routes, to {name}, CPU"), "s");
    for _ in 0..effort.rounds {
        for pair in &mut pairs {
            let (taken, used) = pair.speakers.converge(count.into())?;
            time.add(pair.subject.name, taken.as_secs_f64());
            cpu.add(pair.subject.name, used);
        }
    }
    let mut report = Report { tables: vec![time.against(NONE), cpu.against(NONE)], ..Report::default() };
    for pair in &mut pairs {
        report.measured.extend(pair.where_the_time_goes(name, count)?);
    }
    Ok(report)
}

fn subjects() -> Result<Vec<Subject>> {
    let network = || Network::with(Wire::Direct, 1500);
    let mut subjects = vec![Subject::none(network()?), Subject::tcp_md5(network()?)];
    for algorithm in ALGORITHMS {
        subjects.push(Subject::tcpauth(network()?, algorithm)?);
    }
    Ok(subjects)
}

impl Pair {
    /// When the sender has read its table.
    fn new(mut bird: Bird, subject: Subject, receiver: fn(&Subject) -> Result<Receiver>) -> Result<Self> {
        let sender = Control::connect(&mut bird)?;
        let speakers = Speakers { name: subject.name, sender, receiver: receiver(&subject)?, _bird: bird };
        Ok(Self { speakers, subject })
    }

    /// What runs of the programs of both routers take in a transfer, if they have any.
    fn where_the_time_goes(&mut self, receiver: &str, count: u32) -> Result<Vec<Measured>> {
        let Some(agents) = self.subject.agents() else { return Ok(Vec::new()) };
        let statistics = RunTimes::begin(&agents)?;
        self.speakers.converge(count.into())?;
        let what = format!("{}, {count} routes to {receiver}", self.subject.name);
        Ok(each_run(&what, statistics.end()?))
    }
}

impl Speakers {
    /// From Established to the last of `count` routes, and seconds of CPU time until then. The session is down before
    /// and after.
    fn converge(&mut self, count: u64) -> Result<(Duration, f64)> {
        self.sender.ask("enable bgp_neighbor")?;
        let start = self.wait(Duration::from_millis(5), |established, _| established)?;
        let cpu = CpuTime::now()?;
        let end = self.wait(self.receiver.pause(), |_, received| received >= count)?;
        let used = cpu.elapsed()?;
        self.sender.ask("disable bgp_neighbor")?;
        let receiver = &mut self.receiver;
        eventually(LIMIT, "the routes to be forgotten", || {
            let (established, received) = receiver.session()?;
            Ok((!established && received == 0).then_some(()))
        })?;
        Ok((end - start, used))
    }

    /// When `condition` held of whether the session is up and how many routes came.
    fn wait(&mut self, pause: Duration, condition: impl Fn(bool, u64) -> bool) -> Result<Instant> {
        let start = Instant::now();
        loop {
            let (established, received) = self.receiver.session()?;
            if condition(established, received) {
                return Ok(Instant::now());
            }
            check_interrupted()?;
            ensure!(start.elapsed() < LIMIT, "{}: {received} routes after {LIMIT:?}", self.name);
            let asked = Instant::now();
            while asked.elapsed() < pause {
                self.sender.ask("show status")?;
                thread::sleep(AWAKE);
            }
        }
    }
}

impl Receiver {
    fn bird(subject: &Subject) -> Result<Self> {
        let (_, receiving) = peerings(subject);
        let mut bird = Bird::launch(&subject.network().r2.namespace, &config(&receiving, None))?;
        Ok(Self::Bird { control: Control::connect(&mut bird)?, _bird: bird })
    }

    fn gobgp(subject: &Subject) -> Result<Self> {
        let (_, receiving) = peerings(subject);
        GoBgp::start(&subject.network().r2.namespace, &receiving).map(Self::GoBgp)
    }

    /// Whether the session is up, and how many routes came.
    fn session(&mut self) -> Result<(bool, u64)> {
        match self {
            Self::Bird { control, .. } => {
                control.session().map(|(state, routes)| (state == "Established", routes))
            }
            Self::GoBgp(gobgp) => Ok((gobgp.is_established()?, gobgp.count()?)),
        }
    }

    /// Between two questions for routes.
    fn pause(&self) -> Duration {
        match self {
            Self::Bird { .. } => Duration::from_millis(20),
            Self::GoBgp(_) => Duration::from_millis(100),
        }
    }
}

/// The sender's end and the receiver's.
fn peerings(subject: &Subject) -> (Peering, Peering) {
    let (sending, receiving) = Peering::pair(&subject.network().r1, &subject.network().r2);
    let md5 = (subject.name == TCP_MD5).then(|| subject.options.md5.clone()).flatten();
    let end = |peering| Peering { routes: 0, keepalive: 60, md5: md5.clone(), ..peering };
    (end(sending), end(receiving))
}

/// Of BIRD with the table in the folder, or with none. The one that has it begins the session when it is told to.
fn config(peering: &Peering, table: Option<&Path>) -> String {
    let Peering { local_as, peer_as, local, peer, keepalive, md5, .. } = peering;
    let password = md5.as_ref().map(|text| format!("password \"{text}\";")).unwrap_or_default();
    let hold = keepalive * 3;
    let (attributes, feed, state) = match table {
        Some(folder) => (
            format!("include \"{}\";", folder.join(routes::ATTRIBUTES).display()),
            format!(
                "protocol static announced_routes {{\n    ipv4;\ninclude \"{}\";\n}}",
                folder.join(routes::ROUTES).display()
            ),
            "disabled;",
        ),
        None => (String::new(), String::new(), "passive;"),
    };
    format!(
        "log stderr all;
router id 10.255.0.{id};
{attributes}
protocol device {{ }}
{feed}
protocol bgp bgp_neighbor {{
    {state}
    local {local} as {local_as};
    neighbor {peer} as {peer_as};
    direct;
    {password}
    keepalive time {keepalive};
    hold time {hold};
    connect delay time 1;
    connect retry time 2;
    error wait time 1, 2;
    ipv4 {{
        import all;
        export where source = RTS_STATIC;
    }};
}}
",
        id = local_as % 100,
    )
}
