//! Handshakes on the protected connections themselves (`key-management = "layered"`).
//!
//! - `begin`: which connections have one, and from where it goes on.
//! - `frame`: the frames that the daemon makes itself.
//!
//! The data plane hands over what arrives while a session is in [`Session::HANDSHAKE`], and takes what our stack sends.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tcpauth_common::{
    SeqNumber,
    key_choice::flag::SYN,
    layout::{Direction, Held, KeyChange, KeySlot, MAX_KEYS, Quartet, Session},
    rollover::{NO_SLOT, slot_at},
    sequence::ExtendedSeq,
};
use zeroize::Zeroize;

use super::{super::Daemon, KmpPeer, dial::Dialer, timers::Timers};
use crate::{
    control::words::KmpChange,
    daemon::rules::change_keys,
    kernel::Rekeyed,
    kmp::{
        Agreed, Connection,
        layered::{Action, Failure, Handshake, Offsets},
        stream::{self, Origin, StreamError},
    },
    sessions::{self, Monotonic, Segment, address, roll_in},
};
use begin::Opening;
use frame::{Template, signed_by_peer};

mod begin;
mod frame;

/// A client that has not acknowledged our SYN-ACK by then has given up: Linux sends it five times in this time.
const ACKNOWLEDGMENT_LIMIT: Duration = Duration::from_secs(64);
/// A SYN that nobody has gone on with for this long makes room for another one with the same ends.
const STALE: Duration = Duration::from_secs(3);
/// Handshakes on connections that one peer has opened: each costs as much memory as a thousand that await theirs.
const MAX_OF_PEER: usize = 64;
/// What went wrong with a peer is forgotten so long after its end: by then nobody tries again.
const TROUBLE_ENDS: Duration = Duration::from_secs(600);
/// A connection on which no keys were agreed is forgotten after this: by then both ends' stacks were told.
const FORGET_AFTER: Duration = Duration::from_secs(1);

/// The handshakes under way.
#[derive(Default)]
pub(in super::super) struct Layered {
    connections: HashMap<Quartet, Underway>,
    /// Our SYNs that nobody has answered yet.
    openings: HashMap<Quartet, Opening>,
    troubles: HashMap<KmpPeer, Trouble>,
    timers: Timers<Timer>,
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// Something of this handshake.
    Handshake(Quartet),
    /// To forget this SYN of ours.
    Opening(Quartet),
}

/// A connection between its SYNs and its keys.
struct Underway {
    peer: KmpPeer,
    origin: Origin,
    template: Template,
    /// At the client: what our stack has to get in the end.
    syn_ack: Option<(Held, Vec<u8>)>,
    progress: Progress,
    begun: Instant,
}

/// How far a handshake is.
enum Progress {
    /// At the server: it begins with the client's acknowledgment. Whoever plays an old SYN again costs no more than it
    /// costs our stack.
    Awaited,
    /// It goes on.
    Running(Box<Handshake>),
    /// It failed.
    Failed,
}

/// What went wrong with a neighbour's daemon, until something goes well.
struct Trouble {
    dialer: Dialer,
    /// Until then our end opens no connection to it.
    until: Instant,
}

impl Underway {
    /// Whether a client that sent its SYN now would have acknowledged our answer long ago. Not sooner: a SYN played again
    /// must not end what begins.
    fn is_stale(&self, now: Instant) -> bool {
        matches!(self.progress, Progress::Awaited) && STALE <= now.saturating_duration_since(self.begun)
    }
}

impl Layered {
    /// When [`Daemon::on_layered_time`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.next_due()
    }

    /// Handshakes with a peer that are under way.
    fn handshakes_of(&self, peer: KmpPeer) -> usize {
        let is_running = |connection: &&Underway| {
            connection.peer == peer && matches!(connection.progress, Progress::Running(_))
        };
        self.connections.values().filter(is_running).count()
    }

    fn running(&mut self, quartet: &Quartet) -> Option<&mut Handshake> {
        match &mut self.connections.get_mut(quartet)?.progress {
            Progress::Running(handshake) => Some(handshake),
            Progress::Awaited | Progress::Failed => None,
        }
    }

    /// A moment for what is due next of this handshake.
    fn set_timer(&mut self, quartet: Quartet) {
        if let Some(due) = self.running(&quartet).and_then(|handshake| handshake.next_due()) {
            self.timers.set(Timer::Handshake(quartet), due);
        }
    }

    fn forget(&mut self, quartet: &Quartet) {
        self.connections.remove(quartet);
        self.timers.clear(Timer::Handshake(*quartet));
    }
}

impl Daemon {
    /// Forgets what went wrong with neighbours that are gone or `changed`: those may be another way now.
    pub(in super::super) fn forget_troubles(&mut self, changed: impl Fn(u32) -> bool) {
        let is_there = |number| self.neighbors.numbered(number).is_some();
        let stays = |peer: &KmpPeer| is_there(peer.neighbor) && !changed(peer.neighbor);
        self.kmp.layered.troubles.retain(|peer, _| stays(peer));
    }

    /// Forgets what went wrong long ago: with a prefix, any number of peers may have come and gone.
    pub(in super::super) fn tidy_troubles(&mut self) {
        let now = Instant::now();
        self.kmp.layered.troubles.retain(|_, trouble| now < trouble.until + TROUBLE_ENDS);
    }

    /// Takes in a segment of a handshake, which verified.
    pub(in super::super) fn on_layered_segment(&mut self, held: &Held, frame: &[u8]) {
        let now = Instant::now();
        let segment = Segment::parse(held, frame).ok();
        let segment = segment.and_then(|segment| stream::Segment::parse(segment.octets()));
        let Some(segment) = segment else { return };
        let connection = self.kmp.layered.connections.get(&held.quartet);
        let is_awaited =
            connection.is_some_and(|connection| matches!(connection.progress, Progress::Awaited));
        if is_awaited && segment.flags & SYN == 0 {
            let peer = KmpPeer::of(held.neighbor, &held.quartet);
            if self.kmp.layered.handshakes_of(peer) >= MAX_OF_PEER {
                // It comes again, and then there may be room.
                return;
            }
            self.begin_awaited(held, now);
        }
        if let Some(handshake) = self.kmp.layered.running(&held.quartet) {
            handshake.on_segment(&segment, now);
            self.act(held.quartet, now);
        }
    }

    /// Sends again, and gives up, what is due.
    pub(super) fn on_layered_time(&mut self, now: Instant) {
        while let Some(timer) = self.kmp.layered.timers.take_due(now) {
            match timer {
                Timer::Opening(quartet) => {
                    self.kmp.layered.openings.remove(&quartet);
                }
                Timer::Handshake(quartet) => self.on_handshake_time(quartet, now),
            }
        }
    }

    fn on_handshake_time(&mut self, quartet: Quartet, now: Instant) {
        let Some(handshake) = self.kmp.layered.running(&quartet) else {
            self.forget_closed(&quartet);
            return;
        };
        if handshake.is_switched() && self.session_phase(&quartet) == Some(Session::OPEN) {
            self.succeed(&quartet, now);
            return;
        }
        if let Some(handshake) = self.kmp.layered.running(&quartet) {
            handshake.on_time(now);
        }
        self.act(quartet, now);
    }

    /// Does what a handshake asks for.
    fn act(&mut self, quartet: Quartet, now: Instant) {
        while let Some(action) = self.next_action(&quartet) {
            match action {
                Action::Send(segment) => self.send_to_peer(&quartet, &segment),
                Action::Switch(agreed, offsets) => {
                    if let Err(error) = self.use_agreed(&quartet, &agreed, Session::SWITCHING, offsets) {
                        self.fail(quartet, &Failure::NotInstalled(error), now);
                    }
                }
                Action::Open(agreed, offsets) => {
                    match self.use_agreed(&quartet, &agreed, Session::OPEN, offsets) {
                        Ok(()) => self.succeed(&quartet, now),
                        Err(error) => self.fail(quartet, &Failure::NotInstalled(error), now),
                    }
                }
                Action::Fail(failure) => self.fail(quartet, &failure, now),
            }
        }
        self.kmp.layered.set_timer(quartet);
    }

    fn next_action(&mut self, quartet: &Quartet) -> Option<Action> {
        self.kmp.layered.running(quartet)?.next_action()
    }

    /// Puts agreed keys into the session: at the client it sends with them at once, as the server has them.
    fn use_agreed(
        &mut self,
        quartet: &Quartet,
        agreed: &Agreed,
        phase: u32,
        offsets: Offsets,
    ) -> Result<(), String> {
        let session = self.dataplane.session(quartet).map_err(|error| error.to_string())?;
        let session = session.filter(|session| {
            let isns = (Some(session.local_isn), Some(session.peer_isn));
            let connection = Connection::new(quartet, agreed.role, isns.0, isns.1);
            session.phase == Session::HANDSHAKE && connection == Some(agreed.connection)
        });
        let session = session.ok_or("the session is gone")?;
        let mut slot = agreed.mkt.traffic_slot(quartet, session.local_isn, session.peer_isn, agreed.role);
        let mut change = roll_in(&session, quartet, slot, phase == Session::OPEN);
        slot.send.words.zeroize();
        slot.recv.words.zeroize();
        change.flags |= KeyChange::SET_PHASE;
        change.phase = phase;
        change.sent_before = offsets.sent;
        change.received_before = offsets.received;
        match change_keys(&mut self.dataplane, &mut change) {
            Ok(Rekeyed::Done) => {
                self.log_key(agreed);
                Ok(())
            }
            Ok(Rekeyed::NoSession | Rekeyed::OtherConnection) => Err("the session is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The connection is open: its stacks may speak.
    fn succeed(&mut self, quartet: &Quartet, now: Instant) {
        let Some(connection) = self.kmp.layered.connections.remove(quartet) else { return };
        self.kmp.layered.forget(quartet);
        self.kmp.layered.troubles.remove(&connection.peer);
        if let Some((held, frame)) = &connection.syn_ack {
            self.release(held, frame);
        }
        let neighbor = self.neighbors.numbered(connection.peer.neighbor);
        if let (Some(neighbor), Progress::Running(handshake)) = (neighbor, &connection.progress)
            && let Some((peer, tls)) = handshake.peer()
        {
            let took = now.saturating_duration_since(connection.begun);
            tracing::debug!(
                neighbor = %neighbor.peer, peer = tls.peer, ?took,
                "keys agreed on a connection: {} with {}", tls.version, tls.suite
            );
            self.kmp.known.succeeded(connection.peer.neighbor, tls.clone(), Arc::clone(peer));
        }
        if let Ok(Some(session)) = self.dataplane.session(quartet) {
            self.tell_session(quartet, &session, sessions::progress(&session).name().into());
        }
    }

    /// No keys: both ends' stacks are told, and nothing else passes from now on.
    fn fail(&mut self, quartet: Quartet, failure: &Failure, now: Instant) {
        let Some(connection) = self.kmp.layered.connections.get_mut(&quartet) else { return };
        let reset = match std::mem::replace(&mut connection.progress, Progress::Failed) {
            Progress::Running(handshake) => handshake.reset(),
            Progress::Awaited | Progress::Failed => connection.origin.reset(),
        };
        let (peer, origin, is_client) = (connection.peer, connection.origin, connection.syn_ack.is_some());
        self.close_session(&quartet, &origin);
        if *failure != Failure::Stream(StreamError::Reset) {
            self.send_to_peer(&quartet, &reset);
        }
        self.send_to_stack(&quartet, &origin.reset_from_peer());
        self.kmp.layered.timers.set(Timer::Handshake(quartet), now + FORGET_AFTER);
        self.note_trouble(peer, is_client, &failure.to_string(), now);
    }

    /// The peer's SYN of another connection with these ends verified. If our end answered one before that nobody has
    /// acknowledged for long, it was an old SYN, played again: our stack is told, and has room for the new one. Whether it
    /// was so.
    pub(in super::super) fn give_up_awaited(&mut self, quartet: &Quartet) -> bool {
        let now = Instant::now();
        let Some(connection) = self.kmp.layered.connections.get_mut(quartet) else { return false };
        if !connection.is_stale(now) {
            return false;
        }
        connection.progress = Progress::Failed;
        let origin = connection.origin;
        self.close_session(quartet, &origin);
        self.send_to_stack(quartet, &origin.reset_from_peer());
        self.kmp.layered.timers.set(Timer::Handshake(*quartet), now + FORGET_AFTER);
        true
    }

    /// Lets nothing but RSTs pass, unless the quartet has another connection by now.
    fn close_session(&mut self, quartet: &Quartet, origin: &Origin) {
        let Ok(Some(session)) = self.dataplane.session(quartet) else { return };
        if (session.local_isn, session.peer_isn) != (origin.local_isn, origin.peer_isn) {
            return;
        }
        let mut change = KeyChange::nothing(quartet, &session);
        change.flags |= KeyChange::SET_PHASE;
        change.phase = Session::FAILED;
        (change.sent_before, change.received_before) = (0, 0);
        if let Err(error) = change_keys(&mut self.dataplane, &mut change) {
            // Its keys are those of the handshake still: nothing of the stacks' passes.
            tracing::error!("a connection without keys could not be closed: {error}");
        }
    }

    /// Only the end that connects waits before the next time: what somebody else begins must not keep it from that.
    fn note_trouble(&mut self, peer: KmpPeer, is_client: bool, because: &str, now: Instant) {
        let wait = is_client.then(|| {
            let fresh = || Trouble { dialer: Dialer::default(), until: now };
            let trouble = self.kmp.layered.troubles.entry(peer).or_insert_with(fresh);
            trouble.until = trouble.dialer.again(now, None);
            trouble.until.saturating_duration_since(now)
        });
        let monotonic = Monotonic::now();
        let next = wait.map(|wait| Monotonic(monotonic.0 + wait.as_nanos() as u64));
        let times = self.kmp.known.failed(peer.neighbor, because, monotonic, next);
        let Some(neighbor) = self.neighbors.numbered(peer.neighbor) else { return };
        let (address, wait) = (address(peer.address), wait.map(tracing::field::debug));
        if times == 1 {
            tracing::warn!(neighbor = %neighbor.peer, %address, wait, "no keys for a connection: {because}");
            self.tell_kmp(peer.neighbor, KmpChange::Failed, format!("keys on a connection: {because}"));
        } else {
            tracing::debug!(neighbor = %neighbor.peer, %address, wait, "no keys for a connection: {because}");
        }
    }

    /// A connection that failed, or that its client never acknowledged; with its session, unless another one has the
    /// quartet by now.
    fn forget_closed(&mut self, quartet: &Quartet) {
        self.kmp.layered.forget(quartet);
        if matches!(self.session_phase(quartet), Some(Session::HANDSHAKE | Session::FAILED))
            && let Err(error) = self.drop_session(quartet)
        {
            tracing::error!("a connection without keys could not be forgotten: {error}");
        }
    }

    fn session_phase(&self, quartet: &Quartet) -> Option<u32> {
        self.dataplane.session(quartet).ok().flatten().map(|session| session.phase)
    }

    /// Sends for our end. The data plane signs it.
    fn send_to_peer(&self, quartet: &Quartet, segment: &stream::Segment) {
        let Some(connection) = self.kmp.layered.connections.get(quartet) else { return };
        let tcp = segment.octets(quartet.local_port, quartet.peer_port);
        let (held, frame) = connection.template.frame(Direction::Outbound, tcp);
        self.release(&held, &frame);
    }

    /// Sends to our own stack, as the peer would.
    fn send_to_stack(&self, quartet: &Quartet, segment: &stream::Segment) {
        let Some(connection) = self.kmp.layered.connections.get(quartet) else { return };
        let Ok(Some(session)) = self.dataplane.session(quartet) else { return };
        let slot = newest_accepted(&session);
        let tcp = segment.octets(quartet.peer_port, quartet.local_port);
        let sne = ExtendedSeq(session.recv_seq).extend(SeqNumber(segment.seq)).sne();
        let (peer, local) = (address(quartet.peer), address(quartet.local));
        if let Some(tcp) = slot.and_then(|slot| signed_by_peer(&tcp, slot, sne, peer, local)) {
            let (held, frame) = connection.template.frame(Direction::Inbound, tcp);
            self.release(&held, &frame);
        }
    }
}

/// The key that the data plane verifies with and that is the newest of these.
fn newest_accepted(session: &Session) -> Option<&KeySlot> {
    (0..MAX_KEYS as u32)
        .map(|age| session.rollover.newest(age))
        .filter(|slot| *slot != NO_SLOT)
        .filter_map(|slot| slot_at(&session.slots, slot))
        .find(|slot| slot.flags & KeySlot::ACCEPT != 0)
}
