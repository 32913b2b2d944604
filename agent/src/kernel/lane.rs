//! The lane: the veth pair in which super-packets are cut into segments and sealed.

use std::{fs, io};

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{
    KernelError,
    error::is_privilege,
    ethtool::{self, Offload},
    netlink::Netlink,
};
use crate::instance::Instance;

/// The near end, into which the segments of sessions are redirected.
pub const LANE0: &str = "tcpauth-lane0";
/// The far end, where segments are sealed.
pub const LANE1: &str = "tcpauth-lane1";

/// The largest a veth takes, so that what fits an interface fits the lane.
const MTU: u32 = 65535;

/// Indices of the lane's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    pub(super) lane0: u32,
    pub(super) lane1: u32,
}

/// The queueing discipline of a veth: none.
const NO_QUEUE: &str = "noqueue";

/// The lane as others left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// What was changed, each in words for an operator.
    pub changes: Vec<String>,
    /// Frames lost in it since it was made: the kernel's queue of the CPU was full.
    pub dropped: u64,
}

/// Looks at the lane for what somebody has changed.
///
/// # Errors
/// [`KernelError::Lane`].
pub(super) fn look(netlink: &mut Netlink, lane: Lane) -> Result<LaneState, KernelError> {
    let mut state = LaneState::default();
    for (name, index, peer) in [(LANE0, lane.lane0, lane.lane1), (LANE1, lane.lane1, lane.lane0)] {
        let Some(message) = netlink.link(index).map_err(failed("find", name))? else {
            state.changes.push(format!("{name} is gone"));
            continue;
        };
        let changes = changes(&message, name, peer);
        let is_itself = changes.is_empty() || End::parse(&message).is_some_and(|end| end.name == name);
        state.changes.extend(changes);
        state.dropped = state.dropped.saturating_add(dropped(&message));
        for offload in Offload::ALL.into_iter().filter(|_| is_itself) {
            if ethtool::is_on(name, offload).map_err(failed("ask for offloads", name))? {
                state.changes.push(format!("{} of {name} is on", offload.name()));
            }
        }
    }
    Ok(state)
}

/// What is not as [`set_up`] leaves it, of the end `name` whose other end has the index `peer`.
fn changes(message: &LinkMessage, name: &str, peer: u32) -> Vec<String> {
    let mut changes = Vec::new();
    if End::parse(message).is_none_or(|end| end.name != name || end.peer != Some(peer)) {
        changes.push(format!("{name} was renamed, or has lost its other end"));
    }
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) if *mtu != MTU => changes.push(format!("{name} has MTU {mtu}")),
            // One that is down has another, of which nothing passes.
            LinkAttribute::Qdisc(queue)
                if queue != NO_QUEUE && message.header.flags.contains(LinkFlags::Up) =>
            {
                changes.push(format!("{name} has the queue {queue}"));
            }
            _ => {}
        }
    }
    if !message.header.flags.contains(LinkFlags::Up) {
        changes.push(format!("{name} is down"));
    }
    if !message.header.flags.contains(LinkFlags::Noarp) {
        changes.push(format!("{name} does ARP"));
    }
    changes
}

/// Frames that the end could not hand to the other one.
fn dropped(message: &LinkMessage) -> u64 {
    let stats = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some(stats.tx_dropped),
        _ => None,
    });
    stats.unwrap_or_default()
}

/// Makes the lane, or completes one that is there.
///
/// # Errors
/// [`KernelError::OtherInstance`], [`KernelError::LaneName`], [`KernelError::Lane`].
pub(super) fn set_up(netlink: &mut Netlink, instance: &Instance) -> Result<Lane, KernelError> {
    let alias = alias(instance);
    let lane = match find(netlink, &alias)? {
        Found::Whole(lane) => lane,
        Found::Part(indices) => {
            for index in indices {
                delete(netlink, index)?;
            }
            make(netlink, &alias)?
        }
    };
    for (name, index) in [(LANE0, lane.lane0), (LANE1, lane.lane1)] {
        let set = LinkMessageBuilder::<LinkUnspec>::default()
            .index(index)
            .mtu(MTU)
            .arp(false)
            .append_extra_attribute(LinkAttribute::IfAlias(alias.clone()));
        netlink.set_link(set.build()).map_err(failed("set alias, MTU and ARP", name))?;
        disable_ipv6(name).map_err(failed("turn off IPv6", name))?;
        netlink.remove_queue(index).map_err(failed("remove the queue", name))?;
        for offload in Offload::ALL {
            ethtool::turn_off(name, offload).map_err(failed("turn off offloads", name))?;
        }
    }
    for (name, index) in [(LANE0, lane.lane0), (LANE1, lane.lane1)] {
        let up = LinkMessageBuilder::<LinkUnspec>::default().index(index).up();
        netlink.set_link(up.build()).map_err(failed("turn on", name))?;
    }
    Ok(lane)
}

/// Deletes the instance's lane, or what there is of it; whether there was one.
///
/// # Errors
/// [`KernelError::OtherInstance`] if it is another's.
pub(super) fn remove(netlink: &mut Netlink, instance: &Instance) -> Result<bool, KernelError> {
    let indices = match find(netlink, &alias(instance))? {
        Found::Whole(lane) => vec![lane.lane0],
        Found::Part(indices) => indices,
    };
    for &index in &indices {
        delete(netlink, index)?;
    }
    Ok(!indices.is_empty())
}

/// What is there of the lane.
enum Found {
    /// Both ends of one pair.
    Whole(Lane),
    /// Interfaces with the lane's names that are no pair, or none.
    Part(Vec<u32>),
}

fn find(netlink: &mut Netlink, alias: &str) -> Result<Found, KernelError> {
    let ends: Vec<End> = netlink.links()?.iter().filter_map(End::parse).collect();
    for end in &ends {
        if !end.veth {
            return Err(KernelError::LaneName { name: end.name });
        }
        match &end.alias {
            Some(owner) if owner != alias => return Err(KernelError::OtherInstance { owner: owner.clone() }),
            _ => {}
        }
    }
    let end = |name| ends.iter().find(|end| end.name == name);
    Ok(match (end(LANE0), end(LANE1)) {
        (Some(near), Some(far)) if near.peer == Some(far.index) && far.peer == Some(near.index) => {
            Found::Whole(Lane { lane0: near.index, lane1: far.index })
        }
        _ => Found::Part(ends.iter().map(|end| end.index).collect()),
    })
}

fn make(netlink: &mut Netlink, alias: &str) -> Result<Lane, KernelError> {
    netlink.add_link(LinkVeth::new(LANE0, LANE1).build()).map_err(failed("make the veth pair", LANE0))?;
    match find(netlink, alias)? {
        Found::Whole(lane) => Ok(lane),
        Found::Part(_) => Err(failed("find the veth pair", LANE0)(io::ErrorKind::NotFound.into())),
    }
}

/// Deleting one end deletes the other: that it is gone already is fine.
fn delete(netlink: &mut Netlink, index: u32) -> Result<(), KernelError> {
    match netlink.delete_link(index) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other.map_err(failed("delete the veth pair", LANE0)),
    }
}

/// An interface with one of the lane's names.
struct End {
    name: &'static str,
    index: u32,
    peer: Option<u32>,
    alias: Option<String>,
    veth: bool,
}

impl End {
    fn parse(message: &LinkMessage) -> Option<Self> {
        let name = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if name == LANE0 => Some(LANE0),
            LinkAttribute::IfName(name) if name == LANE1 => Some(LANE1),
            _ => None,
        })?;
        let mut end = Self { name, index: message.header.index, peer: None, alias: None, veth: false };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Link(peer) => end.peer = Some(*peer),
                LinkAttribute::IfAlias(alias) => end.alias = Some(alias.clone()),
                LinkAttribute::LinkInfo(info) => {
                    end.veth = info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        // An index of another namespace means nothing here.
        let elsewhere = message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
        if elsewhere {
            end.peer = None;
        }
        Some(end)
    }
}

fn alias(instance: &Instance) -> String {
    format!("tcpauth lane of instance {instance}")
}

/// No router solicitations, no link-local address: the lane carries what the programs put in it.
fn disable_ipv6(name: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn failed(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> KernelError {
    let name = name.to_owned();
    move |source| match is_privilege(&source) {
        true => KernelError::NotRoot { action: format!("{action} of {name}") },
        false => KernelError::Lane { action, name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(name: &str, mtu: u32, peer: u32, flags: LinkFlags, queue: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Link(peer),
            LinkAttribute::Qdisc(queue.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        message
    }

    #[test]
    fn what_was_changed_is_named() {
        let good = LinkFlags::Up | LinkFlags::Noarp;
        assert!(changes(&end(LANE0, MTU, 7, good, NO_QUEUE), LANE0, 7).is_empty());
        assert_eq!(
            changes(&end(LANE0, 1400, 7, good, "fq"), LANE0, 7),
            ["tcpauth-lane0 has MTU 1400", "tcpauth-lane0 has the queue fq"]
        );
        assert_eq!(
            changes(&end(LANE1, MTU, 7, LinkFlags::Noarp, "noop"), LANE1, 7),
            ["tcpauth-lane1 is down"]
        );
        assert_eq!(changes(&end("eth7", MTU, 7, good, NO_QUEUE), LANE1, 7).len(), 1);
        assert_eq!(changes(&end(LANE1, MTU, 8, good, NO_QUEUE), LANE1, 7).len(), 1);
    }
}
