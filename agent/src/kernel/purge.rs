//! Removes all that an instance has in the kernel.

use std::fmt;

use aya::programs::TcAttachType;
use rtnetlink::packet_route::link::LinkAttribute;

use super::{
    KernelError,
    dataplane::{netns_inode, read_pinned},
    detach::detach_pinned,
    hook::{detach_clsact, interface_name},
    lane,
    netlink::Netlink,
    pins::Pins,
};
use crate::instance::Instance;

/// What [`super::Dataplane::purge`] removed. Displays as one line for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgeReport {
    /// Interfaces that had programs, by name, or by index if they are gone.
    pub interfaces: Vec<String>,
    /// Number of pins.
    pub pins: usize,
    /// Whether there was a lane.
    pub lane: bool,
    /// Inode number of the network namespace, other than this one, in which the lane is left, if it still exists.
    pub other_namespace: Option<u32>,
}

impl fmt::Display for PurgeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing to remove");
        }
        let interfaces = match self.interfaces.is_empty() {
            true => "no interface".to_owned(),
            false => self.interfaces.join(", "),
        };
        let lane = if self.lane { "the lane" } else { "no lane" };
        write!(f, "detached from {interfaces}; removed {} pins and {lane}", self.pins)?;
        if let Some(netns) = self.other_namespace {
            write!(
                f,
                "; the lane in network namespace {netns}, if that still exists, is left: purge again inside it, with \
                 `ip netns exec NAME tcpauth --instance NAME purge`"
            )?;
        }
        Ok(())
    }
}

pub(super) fn purge(instance: &Instance) -> Result<PurgeReport, KernelError> {
    let mut report = PurgeReport::default();
    let mut netlink = Netlink::new()?;
    let pins = Pins::find(instance)?;
    // A SETTINGS map of another layout cannot be read, and must not be in the way of its own removal.
    let netns = pins.as_ref().and_then(|pins| read_pinned(pins).ok()).map_or(0, |settings| settings.netns);
    let here = netns_inode()?;
    let elsewhere = netns != 0 && netns != here;
    if elsewhere {
        report.other_namespace = Some(netns);
    }
    if let Some(pins) = &pins {
        for index in pins.linked()? {
            let name = if elsewhere { Err(()) } else { interface_name(index).map_err(|_| ()) };
            report.interfaces.push(name.unwrap_or_else(|()| index.to_string()));
            for direction in ["egress", "ingress"] {
                report.pins += usize::from(detach_pinned(&pins.link(&format!("{index}-{direction}")))?);
            }
        }
    }
    if !elsewhere {
        // The lane tells whose the clsact filters here are: another instance's is an error.
        let lane = lane::remove(&mut netlink, instance);
        match lane {
            Err(KernelError::OtherInstance { .. } | KernelError::LaneName { .. }) => {}
            lane => {
                report.lane = lane?;
                detach_filters(&mut netlink, &mut report)?;
            }
        }
    }
    if let Some(pins) = &pins {
        report.pins += pins.remove_all()?;
    }
    Ok(report)
}

fn detach_filters(netlink: &mut Netlink, report: &mut PurgeReport) -> Result<(), KernelError> {
    for link in netlink.links()? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        let Some(name) = name else { continue };
        let detached = [TcAttachType::Egress, TcAttachType::Ingress].map(|at| detach_clsact(name, at));
        if detached.contains(&true) {
            netlink.remove_empty_clsact(link.header.index)?;
            if !report.interfaces.contains(name) {
                report.interfaces.push(name.clone());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_in_another_namespace_comes_with_the_way_to_remove_it() {
        let here =
            PurgeReport { interfaces: vec!["eth0".to_owned()], pins: 30, lane: true, other_namespace: None };
        assert_eq!(here.to_string(), "detached from eth0; removed 30 pins and the lane");
        let left = PurgeReport { other_namespace: Some(4_026_532_301), ..here }.to_string();
        assert!(left.contains("namespace 4026532301") && left.contains("ip netns exec NAME"), "{left}");
    }
}
