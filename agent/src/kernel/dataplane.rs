//! The data plane of one instance.

use std::{fmt, fs, io, net::IpAddr, os::unix::fs::MetadataExt};

use aya::programs::{TcAttachType, TestRun, TestRunOptions};
use tcpauth_common::layout::{
    Counters, Held, KeyChange, LAYOUT_VERSION, MAX_INTERFACES, OwnEnd, PeerPrefix, PeerRule, Policy, Quartet,
    Session, Settings, VlanTag, maps,
};

use super::{
    DroppedRing, HeldRing, Hook, KernelError, LANE0, LANE1, LaneState, Link, LinkKind, Misplaced,
    PurgeReport,
    detach::detach_pinned,
    hook::{detach_clsact, interface_name},
    lane::{self, Lane},
    maps::{Maps, chain, pinned_settings},
    netlink::Netlink,
    pins::Pins,
    placement::misplaced,
    pod,
    programs::{
        EGRESS, EGRESS_L3, INGRESS, INGRESS_AGAIN, INGRESS_L3, Programs, REKEY, RELEASE, SEAL, program_error,
    },
    purge,
    release::{Releaser, lane_for},
    rings::drain,
};
use crate::instance::Instance;

/// The programs, maps and lane of one instance. Dropping it leaves everything at work.
pub struct Dataplane {
    instance: Instance,
    netns: u32,
    maps: Maps,
    programs: Programs,
    pins: Pins,
    lane: Lane,
    hook: Hook,
    releaser: Releaser,
}

/// How an interface is protected. Displays as `tcx`, `clsact` or the reason why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// By programs at this hook.
    Protected(Hook),
    /// By the programs of another interface, which all its frames pass: that one's index and name.
    ByLower(u32, String),
    /// Not at all; why, for the operator.
    Unprotected(String),
}

/// What came of a [`KeyChange`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rekeyed {
    /// The session has its new keys.
    Done,
    /// There is no such session (any more).
    NoSession,
    /// The quartet has another connection, or one whose ISNs are not both known.
    OtherConnection,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected(Hook::Tcx) => f.write_str("tcx"),
            Self::Protected(Hook::Clsact) => f.write_str("clsact"),
            Self::ByLower(_, name) => write!(f, "by {name}"),
            Self::Unprotected(reason) => f.write_str(reason),
        }
    }
}

impl Dataplane {
    /// Sets up the instance in the calling thread's network namespace, or takes over what is there:
    /// bpffs, lane, maps with their content, programs. Interfaces keep the programs they have until
    /// [`Self::attach`] puts this daemon's in their place. Completes whatever an earlier call left undone.
    ///
    /// # Errors
    /// Any [`KernelError`] but those of attaching and releasing; each says what to do.
    pub fn open(instance: &Instance) -> Result<Self, KernelError> {
        Self::open_with(instance, Hook::of_this_kernel())
    }

    /// [`Self::open`] with another hook than the kernel's best.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(instance: &Instance, hook: Hook) -> Result<Self, KernelError> {
        let netns = netns_inode()?;
        if let Some(pins) = Pins::find(instance)? {
            check_pinned(&pins, instance, netns)?;
        }
        let lane = lane::set_up(&mut Netlink::new()?, instance)?;
        let pins = Pins::make(instance)?;
        let (mut programs, mut maps) = Programs::load(&pins)?;
        hook.attach(programs.get(SEAL)?, lane.lane1, TcAttachType::Ingress, &pins.link("lane1"))?;
        hook.attach(programs.get(RELEASE)?, lane.lane0, TcAttachType::Ingress, &pins.link("lane0"))?;
        // Last: with the lane at work and not before, the settings make the maps a valid set.
        maps.add_common()?;
        maps.set_settings(&settings(lane, netns))?;
        for ring in [&mut maps.held_own, &mut maps.held, &mut maps.dropped].into_iter().flatten() {
            drain(ring);
        }
        let instance = instance.clone();
        let mut dataplane =
            Self { instance, netns, maps, programs, pins, lane, hook, releaser: Releaser::new()? };
        dataplane.forget_vanished()?;
        Ok(dataplane)
    }

    /// Removes everything of the instance: attachments, pins, lane. The daemon must not be running.
    ///
    /// # Errors
    /// [`KernelError::Pin`], [`KernelError::Netlink`] and the like; what was removed by then stays removed.
    pub fn purge(instance: &Instance) -> Result<PurgeReport, KernelError> {
        purge::purge(instance)
    }

    /// Puts this daemon's programs on an interface, in the place of those it has, if any.
    ///
    /// # Errors
    /// [`KernelError::Attach`], [`KernelError::TooManyInterfaces`], [`KernelError::Map`].
    pub fn attach(&mut self, link: &Link) -> Result<Attachment, KernelError> {
        let (tag, ingress, egress) = match &link.kind {
            LinkKind::Unprotected(reason) => return Ok(Attachment::Unprotected(reason.clone())),
            LinkKind::Upper { lower } => {
                // A second pass would miss what the first has taken off.
                self.forget(link.index)?;
                return interface_name(*lower).map(|name| Attachment::ByLower(*lower, name));
            }
            LinkKind::VlanPort { lower, vid, protocol, master } => {
                self.forget(link.index)?;
                let tag = VlanTag { lower: *lower, vid: *vid, protocol: *protocol };
                self.maps.set_vlan(tag, link.index)?;
                return interface_name(*master).map(|name| Attachment::ByLower(*master, name));
            }
            LinkKind::Loopback | LinkKind::Vrf => {
                self.hook_up(link.index, INGRESS, INGRESS_AGAIN)?;
                return Ok(Attachment::Protected(self.hook));
            }
            LinkKind::Ethernet => (None, INGRESS, EGRESS),
            LinkKind::Upon => (None, INGRESS_AGAIN, EGRESS),
            LinkKind::Ip => (None, INGRESS_L3, EGRESS_L3),
            LinkKind::Vlan { lower, vid, protocol } => {
                let tag = VlanTag { lower: *lower, vid: *vid, protocol: *protocol };
                (Some(tag), INGRESS, EGRESS)
            }
        };
        if self.maps.allot_slot(link.index)?.is_none() {
            return Err(KernelError::TooManyInterfaces {
                interface: link.name.clone(),
                max: MAX_INTERFACES - 1,
            });
        }
        self.hook_up(link.index, INGRESS, ingress)?;
        self.hook_up(link.index, EGRESS, egress)?;
        self.forget_tags(link.index, tag)?;
        // Not before the programs are there: from now on the lower interface leaves these frames to it.
        if let Some(tag) = tag {
            self.maps.set_vlan(tag, link.index)?;
        }
        Ok(Attachment::Protected(self.hook))
    }

    /// Takes the programs off an interface, which may be gone, and frees what was kept for it.
    ///
    /// # Errors
    /// [`KernelError::Pin`], [`KernelError::Map`].
    pub fn forget(&mut self, ifindex: u32) -> Result<(), KernelError> {
        // Netlink tells of the lane as of a port: it has filters of ours, which are to stay.
        if [self.lane.lane0, self.lane.lane1].contains(&ifindex) {
            return Ok(());
        }
        self.forget_tags(ifindex, None)?;
        for name in [EGRESS, INGRESS] {
            detach_pinned(&self.pins.link(&format!("{ifindex}-{name}")))?;
        }
        if let (Hook::Clsact, Ok(interface)) = (self.hook, interface_name(ifindex)) {
            for at in [TcAttachType::Egress, TcAttachType::Ingress] {
                detach_clsact(&interface, at);
            }
        }
        self.maps.free_slot(ifindex)
    }

    /// Looks for the programs of an interface as they are in the kernel. Each fault has its place, `ingress` or
    /// `egress`; there is none if all is well, or if the interface is to have none.
    ///
    /// # Errors
    /// [`KernelError::Attach`] if the interface is gone or the kernel does not tell, [`KernelError::Netlink`].
    pub fn check(&mut self, link: &Link) -> Result<Vec<(&'static str, Misplaced)>, KernelError> {
        let (ingress, egress) = match &link.kind {
            LinkKind::Unprotected(_) | LinkKind::Upper { .. } | LinkKind::VlanPort { .. } => {
                return Ok(Vec::new());
            }
            LinkKind::Loopback | LinkKind::Vrf => (INGRESS_AGAIN, None),
            LinkKind::Ethernet | LinkKind::Vlan { .. } => (INGRESS, Some(EGRESS)),
            LinkKind::Upon => (INGRESS_AGAIN, Some(EGRESS)),
            LinkKind::Ip => (INGRESS_L3, Some(EGRESS_L3)),
        };
        let mut faults = Vec::new();
        for (place, program, at) in
            [(INGRESS, Some(ingress), TcAttachType::Ingress), (EGRESS, egress, TcAttachType::Egress)]
        {
            let Some(program) = program else { continue };
            let fault = self.misplaced(program, link.index, at)?;
            faults.extend(fault.map(|fault| (place, fault)));
        }
        Ok(faults)
    }

    /// Looks for the programs of the lane, as [`Self::check`] does: faults by name of the lane's end.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_lane(&mut self) -> Result<Vec<(&'static str, Misplaced)>, KernelError> {
        let mut faults = Vec::new();
        for (name, program, ifindex) in [(LANE0, RELEASE, self.lane.lane0), (LANE1, SEAL, self.lane.lane1)] {
            let fault = self.misplaced(program, ifindex, TcAttachType::Ingress)?;
            faults.extend(fault.map(|fault| (name, fault)));
        }
        Ok(faults)
    }

    /// Looks for what somebody has changed about the lane, and puts it right, with a new lane if need be. Returns what was
    /// found.
    ///
    /// # Errors
    /// As [`Self::open`], of the lane and its programs.
    pub fn keep_lane(&mut self) -> Result<LaneState, KernelError> {
        let mut netlink = Netlink::new()?;
        let found = lane::look(&mut netlink, self.lane)?;
        if !found.changes.is_empty() {
            let lane = lane::set_up(&mut netlink, &self.instance)?;
            if lane != self.lane {
                self.attach_to(lane)?;
                // From now on segments go there. If one of these fails, the next look finds the lane changed still.
                self.maps.set_settings(&settings(lane, self.netns))?;
                self.lane = lane;
            }
        }
        Ok(found)
    }

    /// Puts the lane's programs where they belong, if they are not there.
    ///
    /// # Errors
    /// [`KernelError::Attach`].
    pub fn attach_lane(&mut self) -> Result<(), KernelError> {
        self.attach_to(self.lane)
    }

    fn attach_to(&mut self, Lane { lane0, lane1 }: Lane) -> Result<(), KernelError> {
        for (program, ifindex, pin) in [(SEAL, lane1, "lane1"), (RELEASE, lane0, "lane0")] {
            let pin = self.pins.link(pin);
            self.hook.attach(self.programs.get(program)?, ifindex, TcAttachType::Ingress, &pin)?;
        }
        Ok(())
    }

    fn misplaced(
        &mut self,
        program: &'static str,
        ifindex: u32,
        at: TcAttachType,
    ) -> Result<Option<Misplaced>, KernelError> {
        let id = self.programs.get(program)?.info().map_err(|error| program_error(program, &error))?.id();
        misplaced(self.hook, id, ifindex, at)
    }

    /// Interfaces that have programs, by index, ascending.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn attached(&self) -> Result<Vec<u32>, KernelError> {
        let mut indices = self.maps.slotted()?;
        indices.sort_unstable();
        Ok(indices)
    }

    /// Sends a held segment on, the way it was going; `frame` as [`HeldRing::next_held`] gave it.
    ///
    /// # Errors
    /// [`KernelError::Release`]; the segment is lost then, and TCP will send it again.
    pub fn release(&self, held: &Held, frame: &[u8]) -> Result<(), KernelError> {
        self.releaser.send(lane_for(held, self.lane.lane0, self.lane.lane1), held, frame)
    }

    /// Changes the keys of an established session in its place, while segments pass. The record is not copied; its
    /// owner wipes it.
    ///
    /// # Errors
    /// [`KernelError::System`] if the kernel does not run the program.
    pub fn rekey(&mut self, change: &KeyChange) -> Result<Rekeyed, KernelError> {
        let failed = |source| KernelError::System { action: "change a session's keys", source };
        let options = TestRunOptions { data_in: Some(pod::octets(change)), ..TestRunOptions::default() };
        let run = self.programs.get(REKEY)?.test_run(options);
        match run.map_err(|error| failed(io::Error::other(chain(&error))))?.return_value {
            KeyChange::DONE => Ok(Rekeyed::Done),
            KeyChange::NO_SESSION => Ok(Rekeyed::NoSession),
            KeyChange::OTHER_CONNECTION => Ok(Rekeyed::OtherConnection),
            other => Err(failed(io::Error::other(format!("the program answered {other}")))),
        }
    }

    /// The rings of held segments; once. Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// [`KernelError::RingTaken`].
    pub fn take_held(&mut self) -> Result<HeldRing, KernelError> {
        let taken = KernelError::RingTaken;
        let own = self.maps.held_own.take().ok_or(taken(maps::HELD_OWN))?;
        HeldRing::new(own, self.maps.held.take().ok_or(taken(maps::HELD))?)
    }

    /// The ring of drops; once. Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// [`KernelError::RingTaken`].
    pub fn take_dropped(&mut self) -> Result<DroppedRing, KernelError> {
        DroppedRing::new(self.maps.dropped.take().ok_or(KernelError::RingTaken(maps::DROPPED))?)
    }

    /// Puts a program where `place` ([`INGRESS`] or [`EGRESS`]) says, in the place of the one that is there.
    fn hook_up(&mut self, ifindex: u32, place: &str, program: &str) -> Result<(), KernelError> {
        let at = if place == INGRESS { TcAttachType::Ingress } else { TcAttachType::Egress };
        let pin = self.pins.link(&format!("{ifindex}-{place}"));
        self.hook.attach(self.programs.get(program)?, ifindex, at, &pin)
    }

    /// Forgets interfaces that went while no daemon was there.
    fn forget_vanished(&mut self) -> Result<(), KernelError> {
        self.maps.free_lost_slots()?;
        let mut indices = self.pins.linked()?;
        indices.extend(self.maps.slotted()?);
        indices.extend(self.maps.vlans()?.into_iter().map(|(_, ifindex)| ifindex));
        for ifindex in indices {
            if interface_name(ifindex).is_err() {
                self.forget(ifindex)?;
            }
        }
        Ok(())
    }

    /// Forgets the VLAN tags that an interface took, but one.
    fn forget_tags(&mut self, ifindex: u32, keep: Option<VlanTag>) -> Result<(), KernelError> {
        for (tag, taker) in self.maps.vlans()? {
            if taker == ifindex && Some(tag) != keep {
                self.maps.remove_vlan(tag)?;
            }
        }
        Ok(())
    }
}

/// The maps. All fail with [`KernelError::Map`], and those that add an entry with [`KernelError::MapFull`].
#[allow(clippy::missing_errors_doc, reason = "said once, above")]
impl Dataplane {
    /// TCP ports that are looked at.
    pub fn ports(&self) -> Result<Vec<u16>, KernelError> {
        self.maps.ports()
    }

    /// Looks at a TCP port, or no longer.
    pub fn set_port(&mut self, port: u16, protected: bool) -> Result<(), KernelError> {
        self.maps.set_port(port, protected)
    }

    /// Every address of every neighbour.
    pub fn peers(&self) -> Result<Vec<(PeerPrefix, PeerRule)>, KernelError> {
        self.maps.peers()
    }

    /// Adds or changes an address of a neighbour.
    pub fn set_peer(&mut self, prefix: &PeerPrefix, rule: &PeerRule) -> Result<(), KernelError> {
        self.maps.set_peer(prefix, rule)
    }

    /// Removes an address of a neighbour, if it is there.
    pub fn remove_peer(&mut self, prefix: &PeerPrefix) -> Result<(), KernelError> {
        self.maps.remove_peer(prefix)
    }

    /// Addresses of this host.
    pub fn locals(&self) -> Result<Vec<IpAddr>, KernelError> {
        self.maps.locals()
    }

    /// Adds an address of this host.
    pub fn add_local(&mut self, address: IpAddr) -> Result<(), KernelError> {
        self.maps.add_local(address)
    }

    /// Removes an address of this host, if it is there.
    pub fn remove_local(&mut self, address: IpAddr) -> Result<(), KernelError> {
        self.maps.remove_local(address)
    }

    /// Ends behind this host, and the index of the interface by which their segments arrive.
    pub fn forwarded(&self) -> Result<Vec<(OwnEnd, u32)>, KernelError> {
        self.maps.forwarded()
    }

    /// Adds or changes an end behind this host; 0 for one whose segments do not arrive.
    pub fn set_forwarded(&mut self, end: &OwnEnd, ifindex: u32) -> Result<(), KernelError> {
        self.maps.set_forwarded(end, ifindex)
    }

    /// Removes an end behind this host, if it is there.
    pub fn remove_forwarded(&mut self, end: &OwnEnd) -> Result<(), KernelError> {
        self.maps.remove_forwarded(end)
    }

    /// The neighbours' policies, by number.
    pub fn policies(&self) -> Result<Vec<(u32, Policy)>, KernelError> {
        self.maps.policies()
    }

    /// Adds or changes a neighbour's policy; its counters and its bucket begin with zeros if it is new.
    pub fn set_policy(&mut self, neighbor: u32, policy: &Policy) -> Result<(), KernelError> {
        self.maps.set_policy(neighbor, policy)
    }

    /// Removes a neighbour's policy, counters and bucket. Its addresses and sessions are removed before.
    pub fn remove_policy(&mut self, neighbor: u32) -> Result<(), KernelError> {
        self.maps.remove_policy(neighbor)
    }

    /// What the programs counted for a neighbour.
    pub fn counters(&self, neighbor: u32) -> Result<Option<Counters>, KernelError> {
        self.maps.counters(neighbor)
    }

    /// A connection's session.
    pub fn session(&self, quartet: &Quartet) -> Result<Option<Session>, KernelError> {
        self.maps.session(quartet)
    }

    /// Adds or replaces a session. What the programs count in the old one at this very moment is lost.
    pub fn put_session(&mut self, quartet: &Quartet, session: &Session) -> Result<(), KernelError> {
        self.maps.put_session(quartet, session)
    }

    /// Removes a session, if it is there.
    pub fn remove_session(&mut self, quartet: &Quartet) -> Result<(), KernelError> {
        self.maps.remove_session(quartet)
    }

    /// All sessions, in no order. Collect them before removing any.
    pub fn sessions(&self) -> impl Iterator<Item = Result<(Quartet, Session), KernelError>> + '_ {
        self.maps.sessions()
    }
}

fn settings(lane: Lane, netns: u32) -> Settings {
    Settings { layout_version: LAYOUT_VERSION, lane0: lane.lane0, lane1: lane.lane1, netns }
}

/// Inode number of the calling thread's network namespace.
pub(super) fn netns_inode() -> Result<u32, KernelError> {
    fs::metadata("/proc/thread-self/ns/net")
        // Such numbers have 32 bits in the kernel.
        .map(|metadata| metadata.ino() as u32)
        .map_err(|source| KernelError::System { action: "find the network namespace's number", source })
}

/// Settings of pinned maps; zeros if they were never finished.
pub(super) fn read_pinned(pins: &Pins) -> Result<Settings, KernelError> {
    let pin = pins.map(maps::SETTINGS);
    if !pin.exists() {
        return Ok(Settings::default());
    }
    pinned_settings(&pin)
}

/// Whether the pinned maps can be used here. Maps that were never finished are removed: nothing uses them.
fn check_pinned(pins: &Pins, instance: &Instance, here: u32) -> Result<(), KernelError> {
    let settings = read_pinned(pins)?;
    if settings.layout_version == 0 {
        return pins.remove_maps().map(|_| ());
    }
    let instance = instance.name().to_owned();
    if settings.layout_version != LAYOUT_VERSION {
        let found = settings.layout_version;
        return Err(KernelError::Layout { instance, found, expected: LAYOUT_VERSION });
    }
    if settings.netns != here {
        return Err(KernelError::OtherNamespace { instance, found: settings.netns, here });
    }
    Ok(())
}
