//! `tcpauthd`: joins configuration, sessions and kernel.
//!
//! - [`run`]: the main loop; everything happens in one task, one event after the other.
//! - `configuration`, `neighbors`, `rules`: the running configuration, and the maps that follow it.
//! - `paths`, `ipsec`: what stands on the way of segments in this host's own kernel.
//! - `bypass`: connections that get past the programs.
//! - `adopt`: sessions that were up before they were protected.
//! - `keys`: keys that change, with time and by command.
//! - `kmp`: keys that are agreed with the daemons of neighbours.
//! - `peer_keys`: what a neighbour last signed with.
//! - `interfaces`: what is attached, and the addresses of this host; `lane`: where segments are signed.
//! - `segments`: held segments and drops; `drops`: how they are remembered and told; `crowding`: room for new sessions.
//! - `diagnosis`, `meaning`, `status`: what operators are shown.
//! - `unconfigured`: neighbors that are protected and not configured.
//! - `journal`, `fault`: the log, and the end of a daemon that has a fault.
//! - `upkeep`: sessions that have served, and changes of state for the log.
//!
//! Stopping it, in any way, leaves maps, programs and lane at work.

use std::{collections::HashMap, future::pending, io, path::PathBuf, time::Instant};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{broadcast, mpsc},
    time::{MissedTickBehavior, interval, sleep_until},
};

pub use arguments::Arguments;
pub use error::DaemonError;
pub use fault::end_on_panic;
pub use journal::Journal;
pub use kmp::KeyLogError;
pub use stderr_log::StderrLog;

use crate::{
    config::Config,
    control::{
        protocol::{Answer, Event, Request},
        server::{self, Command},
        words::NeighborState,
    },
    instance::Instance,
    kernel::{Dataplane, DroppedRing, HeldRing, KernelError, LinkEvent, LinkWatch},
};
use adopt::Adoption;
use bypass::Bypasses;
use configuration::{no_neighbor, same_peer};
use crowding::Crowding;
use drops::Drops;
use interfaces::Interfaces;
use keys::Schedule;
use kmp::{ChannelEvent, KeyLog, Kmp};
use lane::LaneWatch;
use lock::InstanceLock;
use neighbors::{Neighbors, Rules};
use paths::Paths;
use peer_keys::PeerKeys;
use rules::Replan;
use unconfigured::Unconfigured;

mod adopt;
mod arguments;
mod bypass;
mod configuration;
mod crowding;
mod diagnosis;
mod drops;
mod error;
mod fault;
mod interfaces;
mod ipsec;
mod journal;
mod keys;
mod kmp;
mod lane;
pub(crate) mod lock;
mod meaning;
mod neighbors;
mod notify;
mod paths;
mod peer_keys;
mod rules;
mod segments;
mod sockets;
mod status;
mod stderr_log;
mod unconfigured;
mod upkeep;

/// Events that a slow follower may be behind before it misses some.
const EVENT_BACKLOG: usize = 1024;
/// Requests that may wait.
const COMMAND_BACKLOG: usize = 16;

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which of several daemons.
    pub instance: Instance,
    /// The configuration file.
    pub config_file: PathBuf,
    /// Where agreed keys are written in clear, if that is asked for.
    pub key_log: Option<PathBuf>,
    /// Whether neighbors that are protected and not configured are let go.
    pub force: bool,
}

/// Runs until SIGTERM or SIGINT. Needs a tokio runtime of the current thread, as the network namespace is
/// that of the thread.
///
/// # Errors
/// [`DaemonError::Config`] before anything is touched; the others at any time.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    let configuration::Start { config, leaves_kept } = configuration::at_start(&options)?;
    let key_log = options.key_log.as_deref().map(KeyLog::open).transpose()?;
    let _lock = InstanceLock::take(&options.instance)?;
    kmp::raise_limit_of_files();
    // Early: a reload asked for while starting must not end the daemon.
    let mut signals = Signals::receive().map_err(DaemonError::Signals)?;
    let (events, _) = broadcast::channel(EVENT_BACKLOG);
    // First: neighbours are bound to interfaces by name, and what is bound wrongly for a moment is unprotected.
    let links = LinkWatch::new()?;
    let (channel_events, channels) = mpsc::channel(kmp::EVENT_BACKLOG);
    let mut daemon = Daemon::start(options, config, events.clone(), &links, Kmp::new(channel_events))?;
    daemon.key_log = key_log;
    if !leaves_kept {
        daemon.keep_running();
    }
    let (held, dropped) = (daemon.dataplane.take_held()?, daemon.dataplane.take_dropped()?);
    let mut sources = Sources { held, dropped, links, channels };
    daemon.take_in_links(&mut sources.links)?;
    daemon.interfaces.forget_others(&mut daemon.dataplane)?;
    daemon.follow_interfaces()?;
    daemon.forget_handshakes();
    daemon.adopt();
    daemon.forget_half_open();
    // Channels begin at the addresses of the sessions that are up.
    daemon.follow_refresh()?;
    daemon.follow_channels(&|_| false);

    let (commands, requests) = mpsc::channel(COMMAND_BACKLOG);
    let socket = server::Listener::bind(&daemon.instance.socket(), lock::control_group())?;
    let server = tokio::spawn(socket.serve(commands, events));
    let result = daemon.serve(&mut sources, &mut signals, requests).await;
    notify::stopping();
    server.abort();
    // The socket's file goes with the listener: its task has ended before the lock is given up.
    let _ = server.await;
    result
}

/// The daemon's state. Holds secrets: no `Debug`.
struct Daemon {
    instance: Instance,
    config_file: PathBuf,
    config: Config,
    neighbors: Neighbors,
    /// What the maps say of the neighbours.
    rules: Rules,
    /// Neighbors that an earlier daemon protected and the configuration does not have.
    unconfigured: Unconfigured,
    /// When their keys have to be looked at again.
    schedule: Schedule,
    peer_keys: PeerKeys,
    kmp: Kmp,
    key_log: Option<KeyLog>,
    dataplane: Dataplane,
    interfaces: Interfaces,
    lane: LaneWatch,
    drops: Drops,
    /// How many sessions neighbors have, and what made room.
    crowding: Crowding,
    events: broadcast::Sender<Event>,
    started: Instant,
    reload_error: Option<String>,
    /// Why the running configuration is not kept for the next daemon, if it is not.
    keep_error: Option<String>,
    held_segments: u64,
    /// Packets dropped for want of working memory that the log has told of.
    without_memory: u64,
    /// Connections that are up and without a session, once they are asked for.
    adoption: Adoption,
    /// Connections that get past the programs.
    bypasses: Bypasses,
    /// What stands on the way of segments in this host.
    paths: Paths,
    /// State last logged, by neighbour number.
    logged_states: HashMap<u32, NeighborState>,
}

/// What the kernel and the daemons of neighbours tell.
struct Sources {
    held: HeldRing,
    dropped: DroppedRing,
    links: LinkWatch,
    channels: mpsc::Receiver<ChannelEvent>,
}

/// What operators and systemd tell.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn receive() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Daemon {
    /// Opens the data plane and brings its maps to the configuration.
    fn start(
        options: Options,
        config: Config,
        events: broadcast::Sender<Event>,
        links: &LinkWatch,
        kmp: Kmp,
    ) -> Result<Self, DaemonError> {
        let dataplane = Dataplane::open(&options.instance)?;
        let rules = rules::read(&dataplane)?;
        let mut interfaces = Interfaces::with_lane();
        links.links().for_each(|link| interfaces.learn(link));
        let bound = |name: &str| interfaces.bound(name);
        let neighbors =
            Neighbors::number(config.neighbors.iter().cloned(), &Neighbors::default(), &rules.peers, &bound);
        let unconfigured = match Unconfigured::found(&rules, &neighbors) {
            found if found.is_empty() || options.force => Unconfigured::default(),
            found if neighbors.numbers().any(|number| rules.policies.contains_key(&number)) => found,
            found => {
                let neighbors = found.names().into_iter().collect::<Vec<_>>().join(", ");
                return Err(DaemonError::Emptied { file: options.config_file, neighbors });
            }
        };
        for name in unconfigured.names() {
            tracing::warn!(
                neighbor = name,
                "protected, and not in the configuration: its sessions go on, new ones do not come up; configure it, \
                 or `tcpauth neighbor remove {name}`"
            );
        }
        let mut daemon = Self {
            unconfigured,
            instance: options.instance,
            config_file: options.config_file,
            neighbors,
            rules,
            schedule: Schedule::default(),
            peer_keys: PeerKeys::default(),
            kmp,
            key_log: None,
            dataplane,
            interfaces,
            lane: LaneWatch::default(),
            drops: Drops::new(events.clone()),
            crowding: Crowding::default(),
            events,
            started: Instant::now(),
            reload_error: None,
            keep_error: None,
            held_segments: 0,
            without_memory: 0,
            adoption: Adoption::default(),
            bypasses: Bypasses::default(),
            paths: Paths::default(),
            logged_states: HashMap::new(),
            config,
        };
        daemon.log_warnings();
        let now = Timestamp::now();
        daemon.write_rules(daemon.current_rules(), &Replan::of(daemon.neighbors.numbers()))?;
        daemon.schedule.follow(&daemon.neighbors);
        daemon.tell_keys(now);
        Ok(daemon)
    }

    async fn serve(
        &mut self,
        sources: &mut Sources,
        signals: &mut Signals,
        mut requests: mpsc::Receiver<Command>,
    ) -> Result<(), DaemonError> {
        let mut upkeep = interval(upkeep::INTERVAL);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keys = interval(keys::INTERVAL);
        keys.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watchdog = notify::Watchdog::new();
        tracing::info!(
            instance = self.instance.name(),
            neighbors = self.config.neighbors.len(),
            version = env!("CARGO_PKG_VERSION"),
            "ready"
        );
        notify::ready();
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.hangup.recv() => {
                    notify::reloading();
                    // Logged, and shown in the status.
                    let _ = self.reload(false, false);
                    notify::ready();
                }
                Some(command) = requests.recv() => {
                    // A client that has gone needs no answer.
                    let _ = command.reply.send(self.answer(command.request));
                }
                held = sources.held.next_held() => match held {
                    Ok((held, frame)) => self.on_held(&held, &frame),
                    Err(error) => bad_record(error)?,
                },
                dropped = sources.dropped.next_dropped() => match dropped {
                    Ok(dropped) => self.on_dropped(&dropped),
                    Err(error) => bad_record(error)?,
                },
                event = sources.links.next() => {
                    self.on_link_event(event?);
                    self.take_in_links(&mut sources.links)?;
                    self.keep_following_interfaces();
                    // Interfaces may have joined or left a VRF.
                    self.listen();
                    self.follow_addresses();
                }
                Some(event) = sources.channels.recv() => self.on_channel_event(event),
                () = due(self.kmp.next_due()) => self.on_kmp_time(),
                () = due(self.paths.next_due()) => self.ask_for_routes(),
                _ = keys.tick() => self.follow_keys(),
                _ = upkeep.tick() => self.upkeep(),
                () = watchdog.due() => notify::alive(),
            }
        }
        tracing::info!("stopping; sessions that are up stay protected, new ones wait until tcpauthd is back");
        Ok(())
    }

    /// Takes in what is known of interfaces without waiting.
    fn take_in_links(&mut self, links: &mut LinkWatch) -> Result<(), KernelError> {
        while let Some(event) = links.try_next()? {
            self.on_link_event(event);
        }
        Ok(())
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        let result = match event {
            // An end of the lane that was renamed is no interface to attach to.
            LinkEvent::Up(link) if self.interfaces.is_lane(link.index) => {
                self.on_lane_event();
                Ok(())
            }
            LinkEvent::Up(link) => {
                self.interfaces.up(&mut self.dataplane, link);
                Ok(())
            }
            LinkEvent::Gone(index) => self.interfaces.gone(&mut self.dataplane, index),
            LinkEvent::AddressAdded(address) => self.interfaces.add_address(&mut self.dataplane, address),
            LinkEvent::AddressRemoved(address) => {
                self.interfaces.remove_address(&mut self.dataplane, address)
            }
            LinkEvent::Lane => {
                self.on_lane_event();
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::error!(
                "what the maps say of interfaces and addresses is not up to date, trying again: {error}"
            );
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        let shown = |result: Result<Answer, KernelError>| {
            result.unwrap_or_else(|error| Answer::Error(error.to_string()))
        };
        match request {
            Request::Status => {
                // As they are now, not as they were in the last round.
                self.look_at_programs();
                shown(self.status().map(|status| Answer::Status(Box::new(status))))
            }
            Request::Neighbors { peer } => self.answer_neighbors(peer.as_deref()),
            Request::Sessions => shown(self.session_statuses().map(Answer::Sessions)),
            Request::Reload { discard, force } => self.order(|daemon| {
                notify::reloading();
                let result = daemon.reload(discard, force);
                notify::ready();
                result
            }),
            Request::NeighborAdd { peer, toml } => {
                self.order(|daemon| daemon.add_neighbor(&peer, &zeroize::Zeroizing::new(toml)))
            }
            Request::NeighborSign { peer } => self.order(|daemon| daemon.sign_neighbor(&peer)),
            Request::NeighborRemove { peer } => self.order(|daemon| daemon.remove_neighbor(&peer)),
            Request::Keys { peer } => self.keys(peer.as_deref()).map_or_else(Answer::Error, Answer::Keys),
            Request::KeyAdd { peer, number, toml } => {
                self.order(|daemon| daemon.add_key(&peer, number, zeroize::Zeroizing::new(toml)))
            }
            Request::KeyRoll { peer, number } => {
                self.order(|daemon| daemon.roll_keys(peer.as_deref(), number))
            }
            Request::KeyRetire { peer, number, force } => {
                self.order(|daemon| daemon.retire_key(&peer, number, force))
            }
            Request::KeyRefresh { peer } => self.order(|daemon| daemon.refresh_keys(peer.as_deref())),
            Request::ConfigDiff => self.differences().map_or_else(Answer::Error, Answer::Differences),
            Request::ConfigWrite => self.order(Self::write_config),
            Request::Events => Answer::Error("events are followed on a connection of their own".to_owned()),
        }
    }

    /// Carries out an order and returns its answer, with a warning if the next daemon would not know of the change.
    fn order(&mut self, order: impl FnOnce(&mut Self) -> Result<String, String>) -> Answer {
        match (order(self), &self.keep_error) {
            (Ok(done), None) => Answer::Done(done),
            (Ok(done), Some(error)) => Answer::Done(format!("{done}\nWARNING: {error}")),
            (Err(error), _) => Answer::Error(error),
        }
    }

    fn answer_neighbors(&self, peer: Option<&str>) -> Answer {
        let sessions = match self.sessions_by_neighbor() {
            Ok(sessions) => sessions,
            Err(error) => return Answer::Error(error.to_string()),
        };
        let wanted = self.neighbors.iter().filter(|(_, neighbor)| match peer {
            None => true,
            Some(peer) => same_peer(neighbor, peer) || neighbor.peer.address.to_string() == peer,
        });
        let mut wanted: Vec<_> = wanted.collect();
        if let (true, Some(Ok(address))) = (wanted.is_empty(), peer.map(str::parse::<std::net::IpAddr>)) {
            // An address of a dynamic neighbour.
            wanted.extend(self.neighbors.covering(address));
        }
        if let (true, Some(peer)) = (wanted.is_empty(), peer) {
            return Answer::Error(no_neighbor(peer));
        }
        wanted
            .into_iter()
            .map(|(number, neighbor)| self.neighbor_status(number, neighbor, &sessions))
            .collect::<Result<Vec<_>, _>>()
            .map_or_else(|error| Answer::Error(error.to_string()), Answer::Neighbors)
    }
}

/// Ends at a moment, or never.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// A record that makes no sense is skipped; a ring that fails ends the daemon.
fn bad_record(error: KernelError) -> Result<(), DaemonError> {
    match error {
        KernelError::Record { .. } => {
            tracing::error!("{error}");
            Ok(())
        }
        error => Err(error.into()),
    }
}
