//! Interfaces and addresses of this network namespace, as the daemon knows them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use nix::net::if_::if_nametoindex;

use super::neighbors::covers;
use crate::{
    config::Peer,
    control::protocol::InterfaceStatus,
    kernel::{
        Attachment, Dataplane, KernelError, LANE0, LANE1, Link, LinkKind, Misplaced, interface_towards,
        mapped,
    },
};

/// Interfaces by index, and the addresses of all.
#[derive(Default)]
pub struct Interfaces {
    links: BTreeMap<u32, Known>,
    /// Names that interfaces had before they were renamed, and that no other has now.
    former: HashMap<String, u32>,
    addresses: HashSet<[u8; 16]>,
    /// Indices of the lane's ends.
    lane: Vec<u32>,
    /// What is wrong with the lane's programs.
    lane_fault: Option<String>,
    /// Addresses of this host for which the kernel's map has no room.
    unlisted: HashSet<[u8; 16]>,
    /// Interfaces and addresses that are gone, and that the maps may still have.
    unforgotten: HashSet<u32>,
    unremoved: HashSet<[u8; 16]>,
    /// Neighbors that are bound to interfaces could not be brought up to date.
    unfollowed: bool,
}

struct Known {
    link: Link,
    attached: Attachment,
    /// Attaching failed, and may succeed later.
    failed: bool,
    /// What is wrong with its programs as they are in the kernel.
    fault: Option<String>,
}

/// An interface whose programs are not as they should be, or are so again.
pub struct Change {
    /// Name of the interface.
    pub interface: String,
    /// What is wrong, or nothing any more.
    pub fault: Option<String>,
}

impl Interfaces {
    /// None yet but the lane, whose segments the programs there report. It has to be there.
    pub fn with_lane() -> Self {
        let mut interfaces = Self::default();
        interfaces.learn_lane();
        interfaces
    }

    /// Whether it is an end of the lane, whatever its name is now.
    pub fn is_lane(&self, index: u32) -> bool {
        self.lane.contains(&index)
    }

    /// Knows the lane's ends by their names.
    pub fn learn_lane(&mut self) {
        self.lane = [LANE0, LANE1].iter().filter_map(|name| if_nametoindex(*name).ok()).collect();
    }

    /// Knows an interface by its name before it is attached to.
    pub fn learn(&mut self, link: &Link) {
        let attached = Attachment::Unprotected("not attached to yet".to_owned());
        self.links.insert(link.index, Known { link: link.clone(), attached, failed: true, fault: None });
    }

    /// Attaches to an interface that came or changed. What fails is shown in its status.
    pub fn up(&mut self, dataplane: &mut Dataplane, link: Link) {
        self.note_name(&link);
        let (attached, failed) = match dataplane.attach(&link) {
            Ok(attached) => {
                if let Attachment::Unprotected(reason) = &attached {
                    tracing::warn!(
                        index = link.index,
                        "interface {} carries segments unprotected: {reason}",
                        link.name
                    );
                } else {
                    tracing::info!(interface = link.name, index = link.index, %attached, "interface found");
                }
                (attached, false)
            }
            Err(error) => {
                tracing::error!(
                    index = link.index,
                    "interface {} carries segments unprotected, trying again: {error}",
                    link.name
                );
                (Attachment::Unprotected(error.to_string()), true)
            }
        };
        self.links.insert(link.index, Known { link, attached, failed, fault: None });
    }

    /// Tries again where attaching failed.
    pub fn retry(&mut self, dataplane: &mut Dataplane) {
        for Known { link, attached, failed, .. } in self.links.values_mut().filter(|known| known.failed) {
            match dataplane.attach(link) {
                Ok(now) => {
                    tracing::info!(interface = link.name, index = link.index, attached = %now, "interface attached to at last");
                    (*attached, *failed) = (now, false);
                }
                Err(error) => *attached = Attachment::Unprotected(error.to_string()),
            }
        }
    }

    /// Tries again to list addresses for which there was no room.
    pub fn list_addresses(&mut self, dataplane: &mut Dataplane) {
        for address in std::mem::take(&mut self.unlisted) {
            if let Err(error) = self.list(dataplane, address) {
                tracing::debug!("addresses: {error}");
            }
        }
    }

    /// Looks for all programs as they are in the kernel, and returns what has changed; that is logged, too.
    pub fn look(&mut self, dataplane: &mut Dataplane) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Ok(faults) = dataplane.check_lane() {
            let fault = described(&faults);
            if fault != self.lane_fault {
                changes.push(Change { interface: "lane".to_owned(), fault: fault.clone() });
                self.lane_fault = fault;
            }
        }
        for Known { link, attached, fault, .. } in self.links.values_mut() {
            // An interface that went a moment ago is told of by netlink.
            let found = match attached {
                Attachment::Protected(_) => dataplane.check(link).ok(),
                _ => Some(Vec::new()),
            };
            let Some(found) = found.map(|faults| described(&faults)) else { continue };
            if found != *fault {
                changes.push(Change { interface: link.name.clone(), fault: found.clone() });
                *fault = found;
            }
        }
        for Change { interface, fault } in &changes {
            match fault {
                Some(fault) => tracing::error!("interface {interface} is not protected: {fault}"),
                None => tracing::info!(interface, "tcpauth's programs are in their places again"),
            }
        }
        changes
    }

    /// Attaches again where a program is missing. Programs that others put before ours are left to the operator: to
    /// pass them, ours would have to be taken off for a moment.
    pub fn mend(&mut self, dataplane: &mut Dataplane) {
        if self.lane_fault.is_some()
            && let Err(error) = dataplane.attach_lane()
        {
            tracing::error!("the lane's programs cannot be attached again: {error}");
        }
        for Known { link, .. } in self.links.values().filter(|known| known.fault.is_some()) {
            if let Err(error) = dataplane.attach(link) {
                tracing::error!("tcpauth's programs cannot be attached again: {error}");
            }
        }
    }

    /// Forgets an interface that is gone, or part of another one.
    ///
    /// # Errors
    /// [`KernelError::Pin`], [`KernelError::Map`].
    pub fn gone(&mut self, dataplane: &mut Dataplane, index: u32) -> Result<(), KernelError> {
        if let Some(known) = self.links.remove(&index) {
            tracing::info!(interface = known.link.name, index, "interface is gone");
        }
        self.former.retain(|_, former| *former != index);
        dataplane.forget(index).inspect_err(|_| {
            self.unforgotten.insert(index);
        })
    }

    /// Index of the interface whose programs see the segments of a neighbour bound to `name`: the one below for a
    /// macvlan. An interface that was renamed is found by its former name too.
    pub fn bound(&self, name: &str) -> Option<u32> {
        let index = self.arrival(name)?;
        match self.links.get(&index).map(|known| &known.link.kind) {
            Some(LinkKind::Upper { lower }) => Some(*lower),
            _ => Some(index),
        }
    }

    /// Index of the interface by which segments arrive that are to be forwarded.
    pub fn arrival(&self, name: &str) -> Option<u32> {
        let named = self.named(name).map(|known| known.link.index);
        named.or_else(|| self.former.get(name).copied()).or_else(|| if_nametoindex(name).ok())
    }

    /// The interface that is meant by `name`, for sockets: its name of now, and its index, 0 if there is none.
    pub fn device(&self, name: &str) -> (String, u32) {
        let index = self.arrival(name).unwrap_or(0);
        let known = self.links.get(&index);
        (known.map_or(name, |known| &known.link.name).to_owned(), index)
    }

    /// Whether an interface is a member of a VRF.
    pub fn is_in_vrf(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|known| known.link.vrf.is_some())
    }

    /// Adds an address of this host.
    ///
    /// # Errors
    /// [`KernelError::Map`], [`KernelError::MapFull`].
    pub fn add_address(&mut self, dataplane: &mut Dataplane, address: IpAddr) -> Result<(), KernelError> {
        self.addresses.insert(mapped(address));
        self.list(dataplane, mapped(address))
    }

    fn list(&mut self, dataplane: &mut Dataplane, address: [u8; 16]) -> Result<(), KernelError> {
        let listed = dataplane.add_local(std::net::Ipv6Addr::from(address).to_canonical());
        if listed.is_err() {
            self.unlisted.insert(address);
        }
        listed
    }

    /// Removes an address of this host.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn remove_address(&mut self, dataplane: &mut Dataplane, address: IpAddr) -> Result<(), KernelError> {
        self.addresses.remove(&mapped(address));
        self.unlisted.remove(&mapped(address));
        dataplane.remove_local(address).inspect_err(|_| {
            self.unremoved.insert(mapped(address));
        })
    }

    /// Tries again to forget interfaces and addresses that are gone.
    pub fn forget_stale(&mut self, dataplane: &mut Dataplane) {
        for index in std::mem::take(&mut self.unforgotten) {
            if self.links.contains_key(&index) {
                continue;
            }
            match dataplane.forget(index) {
                Ok(()) => tracing::info!(index, "an interface that is gone is forgotten at last"),
                Err(error) => {
                    tracing::debug!(index, "an interface that is gone: {error}");
                    self.unforgotten.insert(index);
                }
            }
        }
        for address in std::mem::take(&mut self.unremoved) {
            if self.addresses.contains(&address) {
                continue;
            }
            if let Err(error) = dataplane.remove_local(std::net::Ipv6Addr::from(address).to_canonical()) {
                tracing::debug!("an address that is gone: {error}");
                self.unremoved.insert(address);
            }
        }
    }

    /// Notes whether neighbors that are bound to interfaces are up to date.
    pub fn note_followed(&mut self, is_up_to_date: bool) {
        self.unfollowed = !is_up_to_date;
    }

    /// Whether neighbors that are bound to interfaces have to be brought up to date.
    pub fn is_unfollowed(&self) -> bool {
        self.unfollowed
    }

    /// Forgets what an earlier daemon left of interfaces and addresses that are no longer there.
    ///
    /// # Errors
    /// [`KernelError::Pin`], [`KernelError::Map`].
    pub fn forget_others(&mut self, dataplane: &mut Dataplane) -> Result<(), KernelError> {
        for index in dataplane.attached()? {
            if !self.links.contains_key(&index) {
                dataplane.forget(index)?;
            }
        }
        for address in dataplane.locals()? {
            if !self.addresses.contains(&mapped(address)) {
                dataplane.remove_local(address)?;
            }
        }
        Ok(())
    }

    /// Whether the address is one of this host's.
    pub fn has_address(&self, address: &[u8; 16]) -> bool {
        self.addresses.contains(address)
    }

    /// Name of the interface with this index, as far as it is known; `lane` for an end of the lane.
    pub fn name(&self, index: u32) -> String {
        match self.links.get(&index) {
            Some(known) => known.link.name.clone(),
            None if self.lane.contains(&index) => "lane".to_owned(),
            None => format!("#{index}"),
        }
    }

    /// Why sessions of a neighbour cannot be protected.
    pub fn problem(&self, peer: &Peer) -> Option<String> {
        if !self.unlisted.is_empty() {
            return Some(format!(
                "{} addresses of this host are not in the kernel's map, which has no room for more: remove some",
                self.unlisted.len()
            ));
        }
        let Some(name) = peer.interface.as_deref() else {
            let any = self
                .links
                .values()
                .any(|known| !known.link.is_internal() && matches!(known.attached, Attachment::Protected(_)));
            if !any {
                let reason = "no interface carries tcpauth's programs: see the interfaces' status";
                return Some(reason.to_owned());
            }
            return self.unprotected_way(peer);
        };
        if let Some(known) = self.named(name) {
            if known.link.kind == LinkKind::Vrf {
                return Some(format!(
                    "interface {name} is a VRF, by which no segment of a neighbor arrives: name its member that leads to \
                     the neighbor"
                ));
            }
            return self.exposure(known).map(|reason| format!("interface {name} is not protected: {reason}"));
        }
        if self.former.contains_key(name) {
            return None;
        }
        if if_nametoindex(name).is_ok() {
            return Some(format!("interface {name} is part of a bridge, bond or team: name that one"));
        }
        Some(match peer.is_link_local() {
            true => format!("interface {name} does not exist: nothing can pass until it does"),
            false => format!(
                "interface {name} does not exist: until it does, segments are dropped as wrong-interface"
            ),
        })
    }

    /// Whether the programs of an interface or of the lane are not as they should be.
    pub fn has_fault(&self) -> bool {
        self.lane_fault.is_some() || self.links.values().any(|known| known.fault.is_some())
    }

    /// What is wrong with the programs that sessions of a neighbor pass, as they are in the kernel.
    pub fn fault(&self, peer: &Peer) -> Option<String> {
        if let Some(fault) = &self.lane_fault {
            return Some(format!("no segment can be signed: {fault}"));
        }
        if self.links.values().all(|known| known.fault.is_none()) {
            return None;
        }
        let index = match peer.interface.as_deref() {
            Some(name) => self.bound(name),
            None if peer.is_host() => interface_towards(peer.address),
            None => None,
        };
        let known = self.links.get(&index?)?;
        let known = match &known.attached {
            Attachment::ByLower(lower, _) => self.links.get(lower)?,
            _ => known,
        };
        let fault = known.fault.as_ref()?;
        Some(format!("interface {} is not protected: {fault}", known.link.name))
    }

    /// Whether one of this host's addresses is covered.
    pub fn has_address_in(&self, prefix: &Peer) -> bool {
        self.addresses.iter().any(|address| covers(prefix, address))
    }

    /// What is odd about a neighbour's interface, although its sessions are protected.
    pub fn notice(&self, peer: &Peer) -> Option<String> {
        let name = peer.interface.as_deref()?;
        let index = self.former.get(name)?;
        Some(format!("interface {name} is gone; its link is now called {}", self.name(*index)))
    }

    /// All, for the operator.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        let lane = self.lane_fault.iter().map(|fault| InterfaceStatus {
            name: "lane".to_owned(),
            index: self.lane.first().copied().unwrap_or_default(),
            mtu: u32::from(u16::MAX),
            attached: fault.clone(),
            failing: true,
        });
        let is_shown = |known: &&Known| {
            !known.link.is_internal() || self.exposure(known).is_some() || known.fault.is_some()
        };
        let links = self.links.values().filter(is_shown);
        let links = links.map(|Known { link, attached, fault, .. }| InterfaceStatus {
            name: link.name.clone(),
            index: link.index,
            mtu: link.mtu,
            attached: match (attached, fault) {
                (Attachment::ByLower(lower, _), _) => format!("by {}", self.name(*lower)),
                (attached, None) => attached.to_string(),
                (attached, Some(fault)) => format!("{attached}, {fault}"),
            },
            failing: fault.is_some(),
        });
        lane.chain(links).collect()
    }

    /// Remembers the name that an interface had before, and forgets who had the one that it has now.
    fn note_name(&mut self, link: &Link) {
        self.former.remove(&link.name);
        let Some(before) = self.links.get(&link.index).map(|known| known.link.name.clone()) else { return };
        if before != link.name {
            tracing::warn!(
                index = link.index,
                "interface {before} is gone; its link is now called {}: neighbours bound to it stay so",
                link.name
            );
            self.former.insert(before, link.index);
        }
    }

    fn named(&self, name: &str) -> Option<&Known> {
        self.links.values().find(|known| known.link.name == name)
    }

    /// Why segments on an interface are not protected, if they are not.
    fn exposure(&self, known: &Known) -> Option<String> {
        match &known.attached {
            Attachment::Protected(_) => None,
            Attachment::Unprotected(reason) => Some(reason.clone()),
            Attachment::ByLower(lower, name) => match self.links.get(lower).map(|known| &known.attached) {
                Some(Attachment::Unprotected(reason)) => Some(format!("{name} below it: {reason}")),
                // One that is part of a bond or a bridge has its master's programs, if it has a way at all.
                _ => None,
            },
        }
    }

    /// The unprotected interface by which the kernel would send to a neighbour that is one address.
    fn unprotected_way(&self, peer: &Peer) -> Option<String> {
        let exposed = |known: &Known| !known.link.is_internal() && self.exposure(known).is_some();
        if !peer.is_host() || !self.links.values().any(exposed) {
            return None;
        }
        let known = self.links.get(&interface_towards(peer.address)?)?;
        let reason = self.exposure(known)?;
        Some(format!("interface {} carries its segments unprotected: {reason}", known.link.name))
    }
}

/// What is wrong with programs, each at its place, for an operator.
fn described(faults: &[(&str, Misplaced)]) -> Option<String> {
    let faults = faults.iter().map(|(place, fault)| match fault {
        Misplaced::Missing => format!("the program on {place} is missing"),
        Misplaced::Behind(names) => {
            format!("behind {} on {place}, which can let segments pass unseen", names.join(", "))
        }
    });
    let faults: Vec<String> = faults.collect();
    (!faults.is_empty()).then(|| faults.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Hook;

    fn interfaces(links: &[(u32, &str, LinkKind, Attachment)]) -> Interfaces {
        let mut interfaces = Interfaces::default();
        for (index, name, kind, attached) in links {
            let link =
                Link { index: *index, name: (*name).to_owned(), mtu: 1500, kind: kind.clone(), vrf: None };
            let attached = attached.clone();
            interfaces.links.insert(*index, Known { link, attached, failed: false, fault: None });
        }
        interfaces
    }

    fn tcx() -> Attachment {
        Attachment::Protected(Hook::Tcx)
    }

    fn peer(text: &str) -> Peer {
        text.parse().unwrap()
    }

    #[test]
    fn a_macvlan_is_protected_by_the_interface_below() {
        let upper = LinkKind::Upper { lower: 2 };
        let below = Attachment::ByLower(2, "eth0".to_owned());
        let good =
            interfaces(&[(2, "eth0", LinkKind::Ethernet, tcx()), (3, "mv0", upper.clone(), below.clone())]);
        assert_eq!((good.bound("mv0"), good.arrival("mv0")), (Some(2), Some(3)));
        assert_eq!(good.status()[1].attached, "by eth0");
        assert_eq!(good.problem(&peer("192.0.2.1%mv0")), None);
        let failed = Attachment::Unprotected("no room".to_owned());
        let bad = interfaces(&[(2, "eth0", LinkKind::Ethernet, failed), (3, "mv0", upper, below)]);
        assert!(bad.problem(&peer("192.0.2.1%mv0")).unwrap().ends_with("eth0 below it: no room"));
    }

    #[test]
    fn a_renamed_interface_keeps_its_neighbours_until_another_has_the_name() {
        let mut interfaces = interfaces(&[(92, "tkt0", LinkKind::Ethernet, tcx())]);
        let renamed = |index, name: &str| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            kind: LinkKind::Ethernet,
            vrf: None,
        };
        let rename = |interfaces: &mut Interfaces, link: Link| {
            interfaces.note_name(&link);
            interfaces.links.insert(link.index, Known { link, attached: tcx(), failed: false, fault: None });
        };
        rename(&mut interfaces, renamed(92, "tkt7"));
        let bound = peer("192.0.2.1%tkt0");
        assert_eq!((interfaces.bound("tkt0"), interfaces.bound("tkt7")), (Some(92), Some(92)));
        assert_eq!(interfaces.problem(&bound), None);
        assert_eq!(interfaces.device("tkt0"), ("tkt7".to_owned(), 92), "for sockets");
        assert_eq!(interfaces.notice(&bound).unwrap(), "interface tkt0 is gone; its link is now called tkt7");
        rename(&mut interfaces, renamed(93, "tkt0"));
        assert_eq!(interfaces.bound("tkt0"), Some(93));
        assert_eq!(interfaces.notice(&bound), None);
    }

    #[test]
    fn what_becomes_of_segments_is_said_for_an_interface_that_does_not_exist() {
        let interfaces = interfaces(&[(2, "eth0", LinkKind::Ethernet, tcx())]);
        let global = interfaces.problem(&peer("192.0.2.1%tkt9")).unwrap();
        assert!(global.contains("dropped as wrong-interface"), "{global}");
        let local = interfaces.problem(&peer("fe80::1%tkt9")).unwrap();
        assert!(local.contains("nothing can pass"), "{local}");
    }

    #[test]
    fn what_concerns_the_whole_host_makes_every_neighbor_fail() {
        let good = || interfaces(&[(2, "eth0", LinkKind::Ethernet, tcx())]);
        assert_eq!(good().problem(&peer("192.0.2.1%eth0")), None);
        let full = Interfaces { unlisted: HashSet::from([[1; 16]]), ..good() };
        assert!(full.problem(&peer("192.0.2.0/24")).unwrap().starts_with("1 addresses of this host"));
    }

    #[test]
    fn the_lane_has_a_name_for_the_log() {
        let mut interfaces = interfaces(&[(2, "eth0", LinkKind::Ethernet, tcx())]);
        interfaces.lane = vec![3, 4];
        assert_eq!([2, 3, 4, 5].map(|index| interfaces.name(index)), ["eth0", "lane", "lane", "#5"]);
    }

    #[test]
    fn programs_that_are_missing_or_behind_others_make_their_neighbors_fail() {
        let mut interfaces =
            interfaces(&[(2, "eth0", LinkKind::Ethernet, tcx()), (3, "eth1", LinkKind::Ethernet, tcx())]);
        assert_eq!(interfaces.fault(&peer("192.0.2.1%eth0")), None);
        let faults = [
            ("ingress", Misplaced::Missing),
            ("egress", Misplaced::Behind(vec!["program x (id 7)".to_owned()])),
        ];
        interfaces.links.get_mut(&2).unwrap().fault = described(&faults);
        let expected = "the program on ingress is missing; behind program x (id 7) on egress, which can let segments pass \
                        unseen";
        let fault = interfaces.fault(&peer("192.0.2.1%eth0")).unwrap();
        assert_eq!(fault, format!("interface eth0 is not protected: {expected}"));
        assert_eq!(interfaces.fault(&peer("192.0.2.1%eth1")), None);
        let status = interfaces.status();
        assert_eq!(
            (status[0].attached.as_str(), status[0].failing),
            (format!("tcx, {expected}").as_str(), true)
        );
        assert!(!status[1].failing);
        interfaces.lane_fault = Some("the program on lane1 is missing".to_owned());
        assert!(interfaces.fault(&peer("192.0.2.1%eth1")).unwrap().starts_with("no segment can be signed"));
        assert!(interfaces.status()[0].failing);
    }

    #[test]
    fn what_leads_to_no_neighbor_is_shown_only_if_it_fails() {
        for kind in [LinkKind::Loopback, LinkKind::Vrf] {
            let good = interfaces(&[(1, "red", kind.clone(), tcx())]);
            assert!(good.status().is_empty());
            assert!(good.problem(&peer("192.0.2.1")).is_some());
            let failed = Attachment::Unprotected("no room".to_owned());
            assert_eq!(interfaces(&[(1, "red", kind, failed)]).status().len(), 1);
        }
        let vrf = interfaces(&[(1, "red", LinkKind::Vrf, tcx())]);
        assert!(vrf.problem(&peer("192.0.2.1%red")).unwrap().contains("is a VRF"));
    }
}
