//! Brings the maps to what the running configuration says.

use super::neighbors::Neighbors;
use super::neighbors::Rules;
use crate::{
    kernel::{Dataplane, KernelError},
    sessions::{Now, half_open, has_traffic_keys, plan},
};

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

/// Gives every session the keys that its neighbour's master key tuple gives now, and removes those of no
/// neighbour. Sessions whose keys are the same are not touched.
///
/// # Errors
/// [`KernelError::Map`].
pub fn reconcile(
    dataplane: &mut Dataplane,
    neighbors: &Neighbors,
    index_of: &dyn Fn(&str) -> Option<u32>,
) -> Result<Reconciled, KernelError> {
    let sessions = dataplane.sessions().collect::<Result<Vec<_>, _>>()?;
    let mut reconciled = Reconciled::default();
    for (quartet, session) in sessions {
        let Some(owner) = neighbors.owner(&quartet, index_of) else {
            dataplane.remove_session(&quartet)?;
            reconciled.removed += 1;
            continue;
        };
        let now = Now::read();
        let mut rekeyed = session;
        rekeyed.neighbor = owner.number;
        if has_traffic_keys(&session, owner.neighbor.wire) {
            if let Some(change) = plan(&session, &quartet, owner.neighbor, now.wall, None) {
                change.apply(&mut rekeyed, now.monotonic.0);
                dataplane.put_session(&quartet, &rekeyed)?;
                reconciled.rekeyed += 1;
            }
        } else if let Some(renewed) = half_open(&rekeyed, &quartet, owner.neighbor, now) {
            dataplane.put_session(&quartet, &renewed)?;
            reconciled.rekeyed += 1;
        }
    }
    Ok(reconciled)
}
