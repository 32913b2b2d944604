//! Interfaces and addresses of this network namespace, as the daemon knows them.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use nix::net::if_::if_nametoindex;

use crate::{
    control::protocol::InterfaceStatus,
    kernel::{Attachment, Dataplane, KernelError, Link, mapped},
};

/// Interfaces by index, and the addresses of all.
#[derive(Default)]
pub struct Interfaces {
    links: BTreeMap<u32, Known>,
    addresses: HashSet<[u8; 16]>,
}

struct Known {
    link: Link,
    attached: Attachment,
}

/// Index of the interface with this name, if there is one.
pub fn index_of(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

impl Interfaces {
    /// Attaches to an interface that came or changed. What fails is shown in its status.
    pub fn up(&mut self, dataplane: &mut Dataplane, link: Link) {
        let attached = match dataplane.attach(&link) {
            Ok(attached) => {
                tracing::info!(interface = link.name, index = link.index, %attached, "interface found");
                attached
            }
            Err(error) => {
                tracing::error!(
                    interface = link.name,
                    index = link.index,
                    "interface is not protected: {error}"
                );
                Attachment::Unprotected(error.to_string())
            }
        };
        self.links.insert(link.index, Known { link, attached });
    }

    /// Forgets an interface that is gone, or part of another one.
    ///
    /// # Errors
    /// [`KernelError::Pin`], [`KernelError::Map`].
    pub fn gone(&mut self, dataplane: &mut Dataplane, index: u32) -> Result<(), KernelError> {
        if let Some(known) = self.links.remove(&index) {
            tracing::info!(interface = known.link.name, index, "interface is gone");
        }
        dataplane.forget(index)
    }

    /// Adds an address of this host.
    ///
    /// # Errors
    /// [`KernelError::Map`], [`KernelError::MapFull`].
    pub fn add_address(&mut self, dataplane: &mut Dataplane, address: IpAddr) -> Result<(), KernelError> {
        self.addresses.insert(mapped(address));
        dataplane.add_local(address)
    }

    /// Removes an address of this host.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn remove_address(&mut self, dataplane: &mut Dataplane, address: IpAddr) -> Result<(), KernelError> {
        self.addresses.remove(&mapped(address));
        dataplane.remove_local(address)
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

    /// Name of the interface with this index, as far as it is known.
    pub fn name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("#{index}"), |known| known.link.name.clone())
    }

    /// Why sessions of a neighbour bound to `interface`, or to none, cannot be protected.
    pub fn problem(&self, interface: Option<&str>) -> Option<String> {
        let Some(name) = interface else {
            let any = self.links.values().any(|known| matches!(known.attached, Attachment::Protected(_)));
            return (!any)
                .then(|| "no interface carries tcpauth's programs: see the interfaces' status".to_owned());
        };
        match self.links.values().find(|known| known.link.name == name) {
            None => Some(format!("interface {name} does not exist: segments pass once it does")),
            Some(known) => match &known.attached {
                Attachment::Protected(_) => None,
                Attachment::Unprotected(reason) => {
                    Some(format!("interface {name} is not protected: {reason}"))
                }
            },
        }
    }

    /// All, for the operator.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.links
            .values()
            .map(|Known { link, attached }| InterfaceStatus {
                name: link.name.clone(),
                index: link.index,
                mtu: link.mtu,
                attached: attached.to_string(),
            })
            .collect()
    }
}
