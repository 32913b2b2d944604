//! Brings the maps to what the running configuration says.

use std::collections::{HashMap, HashSet};

use tcpauth_common::layout::{KeyChange, Quartet, Session};
use zeroize::Zeroize;

use super::{
    neighbors::{Neighbors, Owner, Rules},
    unconfigured::Unconfigured,
};
use crate::{
    kernel::{Dataplane, KernelError, Rekeyed},
    sessions::{Now, half_open, plan},
};

/// Whose sessions may have to have other keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replan {
    /// Neighbours by number.
    pub neighbors: HashSet<u32>,
    /// Keys that sessions send with at once if the peer cannot be asked for them ([`plan`]), by their neighbour's
    /// number.
    pub forced: HashMap<u32, u32>,
}

impl Replan {
    /// Those of `neighbors`.
    pub fn of(neighbors: impl IntoIterator<Item = u32>) -> Self {
        Self { neighbors: neighbors.into_iter().collect(), forced: HashMap::new() }
    }

    fn concerns(&self, neighbor: u32) -> bool {
        self.neighbors.contains(&neighbor) || self.forced.contains_key(&neighbor)
    }
}

/// What became of the sessions in the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Sessions whose keys changed.
    pub rekeyed: usize,
    /// Sessions that are nobody's any more.
    pub removed: usize,
}

/// What the maps say: after a start, what an earlier daemon left.
///
/// # Errors
/// [`KernelError::Map`].
pub fn read(dataplane: &Dataplane) -> Result<Rules, KernelError> {
    Ok(Rules {
        peers: dataplane.peers()?.into_iter().collect(),
        policies: dataplane.policies()?.into_iter().collect(),
        forwarded: dataplane.forwarded()?.into_iter().collect(),
        ports: dataplane.ports()?.into_iter().collect(),
    })
}

/// Writes what differs between `old`, which the maps have, and `new`. Policies that are no longer needed stay
/// until [`drop_policies`]: their sessions go first. At no moment is a neighbour of both without protection.
///
/// # Errors
/// [`KernelError::Map`], [`KernelError::MapFull`]; what was written by then stays written.
pub fn write(dataplane: &mut Dataplane, old: &Rules, new: &Rules) -> Result<(), KernelError> {
    for (number, policy) in &new.policies {
        if old.policies.get(number) != Some(policy) {
            dataplane.set_policy(*number, policy)?;
        }
    }
    for port in new.ports.difference(&old.ports) {
        dataplane.set_port(*port, true)?;
    }
    for (end, ifindex) in &new.forwarded {
        if old.forwarded.get(end) != Some(ifindex) {
            dataplane.set_forwarded(end, *ifindex)?;
        }
    }
    for (prefix, rule) in &new.peers {
        if old.peers.get(prefix) != Some(rule) {
            dataplane.set_peer(prefix, rule)?;
        }
    }
    for prefix in old.peers.keys().filter(|prefix| !new.peers.contains_key(prefix)) {
        dataplane.remove_peer(prefix)?;
    }
    for end in old.forwarded.keys().filter(|end| !new.forwarded.contains_key(end)) {
        dataplane.remove_forwarded(end)?;
    }
    for port in old.ports.difference(&new.ports) {
        dataplane.set_port(*port, false)?;
    }
    Ok(())
}

/// Removes the policies, counters and buckets of neighbours that `new` has no more.
///
/// # Errors
/// [`KernelError::Map`].
pub fn drop_policies(dataplane: &mut Dataplane, old: &Rules, new: &Rules) -> Result<(), KernelError> {
    for number in old.policies.keys().filter(|number| !new.policies.contains_key(number)) {
        dataplane.remove_policy(*number)?;
    }
    Ok(())
}

/// Gives sessions the keys that their neighbour's chain has now, in their place, and removes those of no neighbour.
/// Sessions of neighbours that `replan` does not name stay as they are, unless they are another neighbour's now, and so
/// do those of `unconfigured` neighbors.
///
/// # Errors
/// [`KernelError::Map`], [`KernelError::System`].
pub fn reconcile(
    dataplane: &mut Dataplane,
    neighbors: &Neighbors,
    index_of: &dyn Fn(&str) -> Option<u32>,
    replan: &Replan,
    unconfigured: &Unconfigured,
) -> Result<Reconciled, KernelError> {
    let mut due = Vec::new();
    for entry in dataplane.sessions() {
        let (quartet, session) = entry?;
        if unconfigured.has(session.neighbor) {
            continue;
        }
        let owner = neighbors.owner(&quartet, index_of);
        let stays =
            owner.is_some_and(|owner| owner.number == session.neighbor && !replan.concerns(owner.number));
        if !stays {
            due.push((quartet, session, owner));
        }
    }
    let mut reconciled = Reconciled::default();
    for (quartet, session, owner) in due {
        let Some(owner) = owner else {
            dataplane.remove_session(&quartet)?;
            reconciled.removed += 1;
            continue;
        };
        let done = if session.flags & Session::BOTH_ISNS == Session::BOTH_ISNS {
            rekey(dataplane, &quartet, &session, owner, replan.forced.get(&owner.number).copied())?
        } else {
            renew(dataplane, &quartet, &session, owner)?
        };
        reconciled.rekeyed += usize::from(done);
    }
    Ok(reconciled)
}

/// A session that programs are at work on.
fn rekey(
    dataplane: &mut Dataplane,
    quartet: &Quartet,
    session: &Session,
    owner: Owner<'_>,
    forced: Option<u32>,
) -> Result<bool, KernelError> {
    let change = plan(session, quartet, owner.neighbor, Now::read().wall, forced);
    let is_handed_over = session.neighbor != owner.number;
    let change = change.or_else(|| is_handed_over.then(|| KeyChange::nothing(quartet, session)));
    let Some(mut change) = change else { return Ok(false) };
    change.neighbor = owner.number;
    // It may be gone by now, with its keys.
    Ok(change_keys(dataplane, &mut change)? == Rekeyed::Done)
}

/// Changes the keys of a session in its place, and wipes `change`.
///
/// # Errors
/// As [`Dataplane::rekey`].
pub(super) fn change_keys(dataplane: &mut Dataplane, change: &mut KeyChange) -> Result<Rekeyed, KernelError> {
    let result = dataplane.rekey(change);
    change.syn_recv.material.words.zeroize();
    for slot in &mut change.slots {
        slot.send.words.zeroize();
        slot.recv.words.zeroize();
    }
    result
}

/// A session whose handshake is not over.
fn renew(
    dataplane: &mut Dataplane,
    quartet: &Quartet,
    session: &Session,
    owner: Owner<'_>,
) -> Result<bool, KernelError> {
    let handed_over = Session { neighbor: owner.number, ..*session };
    let renewed = half_open(&handed_over, quartet, owner.neighbor, Now::read());
    let renewed = renewed.or_else(|| (session.neighbor != owner.number).then_some(handed_over));
    if let Some(renewed) = &renewed {
        dataplane.put_session(quartet, renewed)?;
    }
    Ok(renewed.is_some())
}
