//! Tunnels of IPsec that are interfaces. Not every kernel has them.

use anyhow::Result;

use crate::{
    namespace::Namespace,
    network::{INTERFACE, Router},
};

/// The interface at both ends.
pub const TUNNEL: &str = "ipsec0";

/// Key, mark or interface identifier of the tunnel.
const NUMBER: &str = "42";

/// Which kind of interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Policies belong to the interface by its identifier.
    Xfrm,
    /// Policies belong to the interface by a mark.
    Vti,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Xfrm, Self::Vti];
}

/// Makes a tunnel of IPv4 between two hosts, encrypted, in which all traffic may pass; each end has its address of a /30,
/// or none. False, and says that the test was not run, if this kernel has no such interface.
///
/// # Errors
/// If it has and refuses.
pub fn connect(kind: Kind, ends: [(&Router, Option<&str>); 2]) -> Result<bool> {
    let [(first, _), (second, _)] = ends;
    for ((own, address), other) in [(ends[0], second), (ends[1], first)] {
        let (local, remote) = (own.v4.to_string(), other.v4.to_string());
        let link: &[&str] = match kind {
            Kind::Xfrm => &["type", "xfrm", "dev", INTERFACE, "if_id", NUMBER],
            Kind::Vti => &["type", "vti", "local", &local, "remote", &remote, "key", NUMBER],
        };
        if own.namespace.ip(&[&["link", "add", TUNNEL], link].concat()).is_err() {
            println!("NOT RUN: this kernel has no {kind:?} interface");
            return Ok(false);
        }
        let belonging = if kind == Kind::Xfrm { "if_id" } else { "mark" };
        for (way, source, destination) in [("out", &local, &remote), ("in", &remote, &local)] {
            associate(&own.namespace, source, destination, belonging)?;
            let template = ["tmpl", "src", source, "dst", destination, "proto", "esp", "mode", "tunnel"];
            let policy = ["xfrm", "policy", "add", "dir", way, "src", "0.0.0.0/0", "dst", "0.0.0.0/0"];
            own.namespace.ip(&[&policy[..], &[belonging, NUMBER], &template].concat())?;
        }
        if let Some(address) = address {
            own.namespace.ip(&["address", "add", address, "dev", TUNNEL])?;
        }
        own.namespace.ip(&["link", "set", TUNNEL, "up"])?;
        own.namespace.sysctl(&format!("net.ipv4.conf.{TUNNEL}.rp_filter"), "0")?;
        own.namespace.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    }
    Ok(true)
}

/// Adds a security association, with keys that anybody may know.
fn associate(namespace: &Namespace, source: &str, destination: &str, belonging: &str) -> Result<()> {
    let key = format!("0x{}", "2b".repeat(20));
    let association = ["xfrm", "state", "add", "src", source, "dst", destination, "proto", "esp"];
    let identity = ["spi", "0x1042", "mode", "tunnel", belonging, NUMBER];
    let cipher = ["aead", "rfc4106(gcm(aes))", &key, "128"];
    namespace.ip(&[&association[..], &identity, &cipher].concat()).map(drop)
}
