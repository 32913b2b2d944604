//! Whether tcpauth's programs are where they were attached, and first in line.

use aya::programs::{SchedClassifier, TcAttachType};
use rtnetlink::packet_route::tc::TcHandle;

use super::{
    Hook, KernelError,
    hook::{HANDLE_MAJOR, HANDLE_MINOR, PREFERENCES, interface_name},
    maps::chain,
    netlink::Netlink,
};

/// Handle of our clsact filters.
const OUR_HANDLE: TcHandle = TcHandle { major: HANDLE_MAJOR, minor: HANDLE_MINOR };

/// In place of a handle, in what stands for all filters of a preference.
const NO_HANDLE: TcHandle = TcHandle { major: 0, minor: 0 };

/// What is wrong with a program at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// It is not there.
    Missing,
    /// Other programs or filters run before it, and can end with a verdict: their names.
    Behind(Vec<String>),
}

/// A program as the kernel lists it.
pub(super) struct Listed {
    /// The kernel's number of it.
    pub(super) id: u32,
    /// For an operator.
    pub(super) name: String,
}

/// A filter as the kernel lists it.
pub(super) struct Filter {
    /// Filters with lower numbers run first.
    pub(super) preference: u16,
    /// Which of those with the same preference.
    pub(super) handle: TcHandle,
    /// `bpf`, `u32`, `flower`, …
    pub(super) kind: String,
}

/// Looks for the program numbered `id` at an interface.
///
/// # Errors
/// [`KernelError::Attach`] if the interface is gone or the kernel does not list programs, [`KernelError::Netlink`].
pub(super) fn misplaced(
    hook: Hook,
    id: u32,
    ifindex: u32,
    at: TcAttachType,
) -> Result<Option<Misplaced>, KernelError> {
    let interface = interface_name(ifindex)?;
    let tcx = SchedClassifier::query_tcx(&interface, at).map(|(_, programs)| {
        let listed = programs.iter().map(|program| Listed {
            id: program.id(),
            name: program
                .name_as_str()
                .filter(|name| !name.is_empty())
                .unwrap_or("without a name")
                .to_owned(),
        });
        listed.collect::<Vec<_>>()
    });
    match hook {
        Hook::Tcx => {
            let listed = tcx.map_err(|error| KernelError::Attach { interface, reason: chain(&error) })?;
            Ok(among_programs(&listed, id))
        }
        Hook::Clsact => {
            let minor = match at {
                TcAttachType::Egress => TcHandle::MIN_EGRESS,
                _ => TcHandle::MIN_INGRESS,
            };
            let parent = TcHandle { major: TcHandle::CLSACT.major, minor };
            let filters = Netlink::new()?.filters(ifindex, parent)?;
            // A kernel that has TCX runs its programs before all filters.
            Ok(among_filters(&tcx.unwrap_or_default(), &filters))
        }
    }
}

/// Where a program stands among those of a TCX hook, in their order.
fn among_programs(listed: &[Listed], id: u32) -> Option<Misplaced> {
    let Some(place) = listed.iter().position(|listed| listed.id == id) else {
        return Some(Misplaced::Missing);
    };
    behind(listed[..place].iter().map(|listed| format!("program {} (id {})", listed.name, listed.id)))
}

/// Where our filter stands among those of a clsact hook, behind the programs of the TCX hook.
fn among_filters(programs: &[Listed], filters: &[Filter]) -> Option<Misplaced> {
    let is_ours = |filter: &Filter| PREFERENCES.contains(&filter.preference) && filter.handle == OUR_HANDLE;
    let Some(place) = filters.iter().position(is_ours) else { return Some(Misplaced::Missing) };
    let programs = programs.iter().map(|listed| format!("program {} (id {})", listed.name, listed.id));
    // Listed in the order in which they run, each preference behind a head without a handle.
    let before = filters[..place].iter().filter(|filter| filter.handle != NO_HANDLE);
    let mut before: Vec<_> =
        before.map(|filter| format!("filter {} at preference {}", filter.kind, filter.preference)).collect();
    before.dedup();
    behind(programs.chain(before))
}

fn behind(names: impl Iterator<Item = String>) -> Option<Misplaced> {
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then_some(Misplaced::Behind(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: u32, name: &str) -> Listed {
        Listed { id, name: name.to_owned() }
    }

    fn filter(preference: u16, handle: TcHandle) -> Filter {
        Filter { preference, handle, kind: "bpf".to_owned() }
    }

    #[test]
    fn programs_that_run_before_ours_are_named() {
        let first = [listed(7, "egress"), listed(9, "other")];
        assert_eq!(among_programs(&first, 7), None);
        let behind = Misplaced::Behind(vec!["program egress (id 7)".to_owned()]);
        assert_eq!(among_programs(&first, 9), Some(behind));
        assert_eq!(among_programs(&first, 8), Some(Misplaced::Missing));
        assert_eq!(among_programs(&[], 8), Some(Misplaced::Missing));
    }

    #[test]
    fn filters_and_programs_that_run_before_our_filter_are_named() {
        let other = TcHandle { major: 0, minor: 1 };
        let named =
            |names: &[&str]| Some(Misplaced::Behind(names.iter().map(|name| (*name).into()).collect()));
        let expected = ["program other (id 9)", "filter bpf at preference 1"];
        for preference in PREFERENCES {
            // The kernel lists a head without a handle for each preference.
            let mut filters = vec![filter(preference, NO_HANDLE), filter(preference, OUR_HANDLE)];
            assert_eq!(among_filters(&[], &filters), None);
            assert_eq!(among_filters(&[], &filters[..1]), Some(Misplaced::Missing));
            filters.push(filter(preference + 1, other));
            assert_eq!(among_filters(&[], &filters), None);
            // Another program with the first preference that was attached later runs before ours, too.
            filters.splice(0..1, [filter(1, NO_HANDLE), filter(1, other)]);
            assert_eq!(among_filters(&[listed(9, "other")], &filters), named(&expected));
            assert_eq!(among_filters(&[], &filters), named(&expected[1..]));
        }
    }
}
