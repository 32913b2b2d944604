//! Daemons killed at random instants, while sessions carry data over a path that loses and reorders segments, their
//! keys roll, and an attacker on the path forges segments.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tcpauth_common::layout::maps;
use tcpauth_tests::{
    agent::Agent,
    frame::{Segment, flags, tcp_ao_option},
    impair::{Impairment, Random},
    network::{INTERFACE, Middle, Network, Router},
    scenario::{Protected, wait_attached},
    streams::Streams,
    transfer::{self, Options},
    wait::{check_interrupted, eventually},
    wire,
};

use super::entries;

/// Sessions that carry data both ways.
const SESSIONS: u64 = 5;

/// How long a daemon is away at most, milliseconds.
const LONGEST_ABSENCE: u32 = 300;

/// Time between two lines that say how far it is.
const REPORT_PERIOD: Duration = Duration::from_secs(60);

/// How long anything may take that waits for both daemons.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than the entry of a closed session is kept.
const EXPIRY: Duration = Duration::from_secs(240);

/// What to do, and how often.
pub struct Campaign {
    /// Daemons to kill.
    pub kills: u32,
    /// How long a daemon lives at most before it is killed.
    pub longest_life: Duration,
    /// Kills between two looks at the whole: data, forged segments, programs, and one step of a rollover.
    pub kills_a_look: u32,
    /// Of all random choices.
    pub seed: u64,
}

/// What has been done so far.
#[derive(Default)]
struct Done {
    kills: u32,
    kills_before_answer: u32,
    rollovers: u32,
    forged: u64,
}

/// A rollover, one step at a time, so that daemons are killed between any two of them.
struct Rollover {
    old: u32,
    step: usize,
}

impl Campaign {
    /// Runs the campaign and prints what it did.
    ///
    /// # Errors
    /// If an octet differs, a session ends, a forged segment is not refused, a program is missing, or an entry of a map
    /// stays behind.
    pub fn run(&self) -> Result<()> {
        let start = Instant::now();
        let impairment = Impairment { loss: 20, reordering: 50, seed: self.seed, ..Impairment::default() };
        let mut protected = Protected::over_v4(Network::impaired(impairment)?, "")?;
        let pinned = [pins(&protected.agent1)?, pins(&protected.agent2)?];
        let middle = protected.network.middle.as_ref().context("there is nothing between the routers")?;
        let loss_by = if middle.forwarder.is_some() { "a program between the routers" } else { "netem" };
        println!("Linux {}, loss and reordering by {loss_by}, seed {}", release()?, self.seed);
        let (client, server) = protected.ends();
        let connections = (0..SESSIONS)
            .map(|_| transfer::pair(&client, &server, &Options::default()))
            .collect::<Result<_>>()?;
        let streams = Streams::start(connections)?;
        streams.wait_until_all_move(PATIENCE)?;
        let before = [entries::count(&protected.agent1)?, entries::count(&protected.agent2)?];
        for counts in &before {
            ensure!(counts[maps::SESSIONS] == SESSIONS, "{SESSIONS} sessions, but entries: {counts:?}");
        }
        let mut told = Instant::now();
        let mut random = Random(self.seed);
        let mut rollover = Rollover { old: 0, step: 0 };
        let mut done = Done::default();
        while done.kills < self.kills {
            self.kill_some(&mut protected, &mut random, &mut done)?;
            self.look(&mut protected, &streams, &pinned, &mut rollover, &mut done)
                .with_context(|| format!("seed {}, after {} kills", self.seed, done.kills))?;
            if told.elapsed() >= REPORT_PERIOD {
                println!("{} (after {} s)", done.told(), start.elapsed().as_secs());
                told = Instant::now();
            }
        }
        let octets = streams.finish()?;
        let lost = protected.network.middle.as_ref().map_or(Ok(0), Middle::lost)?;
        for (agent, mut before) in [&protected.agent1, &protected.agent2].into_iter().zip(before) {
            before.insert(maps::SESSIONS, 0);
            eventually(EXPIRY, "the maps to be as before the sessions", || {
                let now = entries::count(agent)?;
                ensure!(now == before, "{now:?}, not {before:?}");
                Ok(Some(()))
            })?;
        }
        println!(
            "{}; {lost} frames lost on the way, {octets} octets exact, no map entry left behind, in {} s",
            done.told(),
            start.elapsed().as_secs()
        );
        Ok(())
    }

    fn kill_some(&self, protected: &mut Protected, random: &mut Random, done: &mut Done) -> Result<()> {
        let life = self.longest_life.as_millis() as u32;
        for _ in 0..self.kills_a_look.min(self.kills - done.kills) {
            check_interrupted()?;
            let agent = if random.below(2) == 0 { &mut protected.agent1 } else { &mut protected.agent2 };
            thread::sleep(Duration::from_millis(random.below(life).into()));
            done.kills_before_answer += u32::from(agent.status().is_err());
            agent.end(libc::SIGKILL)?;
            done.kills += 1;
            thread::sleep(Duration::from_millis(random.below(LONGEST_ABSENCE).into()));
            agent.spawn()?;
        }
        Ok(())
    }

    fn look(
        &self,
        protected: &mut Protected,
        streams: &Streams,
        pinned: &[BTreeSet<PathBuf>; 2],
        rollover: &mut Rollover,
        done: &mut Done,
    ) -> Result<()> {
        for (agent, before) in [&mut protected.agent1, &mut protected.agent2].into_iter().zip(pinned) {
            agent.wait_until_it_answers()?;
            wait_attached(agent, INTERFACE)?;
            // It is 4 when a program of an interface or of the lane is missing, or a socket is without a session.
            eventually(PATIENCE, "status to be good", || {
                let code = agent.status_code()?;
                ensure!(code == 0, "exit status {code}: {}", agent.status()?);
                Ok(Some(()))
            })?;
            let now = pins(agent)?;
            ensure!(
                now == *before,
                "pins differ: {:?}",
                now.symmetric_difference(before).collect::<Vec<_>>()
            );
        }
        done.forged += forge(protected)?;
        done.rollovers += u32::from(rollover.advance(protected)?);
        streams.wait_until_all_move(PATIENCE)?;
        ensure!(streams.ended() == 0, "{} directions ended", streams.ended());
        Ok(())
    }
}

impl Done {
    fn told(&self) -> String {
        format!(
            "{} kills, {} of them before the daemon answered, {} rollovers, {} forged segments refused",
            self.kills, self.kills_before_answer, self.rollovers, self.forged
        )
    }
}

impl Rollover {
    /// Takes the next step; whether that was the last one.
    fn advance(&mut self, protected: &Protected) -> Result<bool> {
        let (old, new) = (self.old, self.old + 1);
        let ends = [(&protected.agent1, protected.peer2()), (&protected.agent2, protected.peer1())];
        match self.step {
            step @ (0 | 1) => {
                let (agent, peer) = &ends[step];
                let options = [format!("--number={new}"), format!("--key-id={}", 1 + new % 200)];
                agent.add_key(peer, &format!("password {new}"), &[&options[0], &options[1]])?;
            }
            step @ (2 | 3) => ends[step - 2].0.roll_key(&ends[step - 2].1)?,
            step => {
                for (agent, peer) in &ends {
                    agent.wait_until_rolled(peer, SESSIONS, PATIENCE)?;
                }
                ends[step - 4].0.retire_key(&ends[step - 4].1, old)?;
            }
        }
        self.step += 1;
        if self.step == 6 {
            *self = Self { old: new, step: 0 };
            return Ok(true);
        }
        Ok(false)
    }
}

/// Sends each router what an attacker on the path could make of what the other sent last, and checks that it is refused.
fn forge(protected: &Protected) -> Result<u64> {
    let network = &protected.network;
    let middle = network.middle.as_ref().context("there is nothing between the routers")?;
    let ends: [(&Agent, String, &Router, &Router, &str); 2] = [
        (&protected.agent1, protected.peer2(), &network.r2, &network.r1, "to-r1"),
        (&protected.agent2, protected.peer1(), &network.r1, &network.r2, "to-r2"),
    ];
    let mut sent = 0;
    for (agent, peer, from, to, port) in ends {
        let last = network.sniff()?.next_from(from, to)?;
        let before = agent.dropped_in_all(&peer)?;
        let next = Segment { flags: flags::ACK, ..wire::forge(&last, flags::ACK, b"") };
        let key_id = last.tcp_ao().map_or(1, |(key_id, _)| key_id);
        let forged = [
            Segment { flags: flags::RST, ..next.clone() },
            Segment { data: b"forged".to_vec(), ..next.clone() },
            Segment { flags: flags::RST, options: tcp_ao_option(key_id, 0x5a), ..next.clone() },
            Segment { data: b"forged".to_vec(), options: tcp_ao_option(key_id, 0x5a), ..next },
        ];
        let frames: Vec<_> = forged.iter().map(|segment| segment.frame(from.mac, to.mac)).collect();
        wire::inject_past_queue(&middle.namespace, port, &frames)?;
        eventually(PATIENCE, "forged segments to be refused", || {
            let refused = agent.dropped_in_all(&peer)? - before;
            ensure!(refused >= frames.len() as u64, "{refused} of {}", frames.len());
            Ok(Some(()))
        })?;
        sent += frames.len() as u64;
    }
    Ok(sent)
}

/// Of the kernel that runs here.
fn release() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim_end().to_owned())
}

/// All that an instance has pinned.
fn pins(agent: &Agent) -> Result<BTreeSet<PathBuf>> {
    fn collect(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                collect(&entry.path(), found)?;
            } else {
                found.insert(entry.path());
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    collect(&agent.pin_dir(), &mut found)?;
    Ok(found)
}
