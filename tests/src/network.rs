//! Two routers, and what is between them.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;

use crate::{
    impair::{Forwarder, Impairment},
    link,
    namespace::Namespace,
    netem,
    wire::Sniffer,
};

/// The interface of each router that leads to the other.
pub const INTERFACE: &str = "eth0";

/// Two routers, `r1` (192.0.2.1) and `r2` (192.0.2.2), and what is between them.
pub struct Network {
    /// The first router.
    pub r1: Router,
    /// The second router.
    pub r2: Router,
    /// What joins them, unless that is one veth.
    pub middle: Option<Middle>,
}

/// A host with an address on the common link.
pub struct Router {
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its IPv4 address, of a /24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, of a /64.
    pub v6: Ipv6Addr,
    /// Its link-local address.
    pub link_local: Ipv6Addr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// How the routers are joined.
pub enum Wire {
    /// By one veth.
    Direct,
    /// By a switch, on which a third host, the attacker, is too.
    Switch,
    /// By a forwarder that treats frames badly.
    Impaired(Impairment),
    /// By a switch whose ports treat frames badly, in the kernel. Its random choices are its own.
    Netem(Impairment),
}

/// The namespace between the routers.
pub struct Middle {
    /// Itself. Its interfaces `to-r1` and `to-r2` are the far ends of the routers' `eth0`.
    pub namespace: Namespace,
    /// A third host on the same wire, 192.0.2.66, if this is a switch.
    pub attacker: Option<Router>,
    /// What passes the frames on, if this is not a switch.
    pub forwarder: Option<Forwarder>,
}

impl Network {
    /// Two routers on a switch, MTU 1500, with an attacker.
    ///
    /// # Errors
    /// As [`Network::with`].
    pub fn switched() -> Result<Self> {
        Self::with(Wire::Switch, 1500)
    }

    /// Two routers, MTU 1500, and bad treatment between them: by netem if the kernel has it.
    ///
    /// # Errors
    /// As [`Network::with`].
    pub fn impaired(impairment: Impairment) -> Result<Self> {
        let wire = if netem::is_there()? { Wire::Netem(impairment) } else { Wire::Impaired(impairment) };
        Self::with(wire, 1500)
    }

    /// Two routers joined by `wire` with that MTU.
    ///
    /// # Errors
    /// If a namespace or link cannot be made.
    pub fn with(wire: Wire, mtu: u32) -> Result<Self> {
        let r1 = Router::new("r1", 1)?;
        let r2 = Router::new("r2", 2)?;
        let middle = match wire {
            Wire::Direct => {
                r1.namespace.ip(&veth(INTERFACE, &r2.namespace, INTERFACE))?;
                None
            }
            Wire::Switch => Some(Middle::switch(&r1, &r2, mtu)?),
            Wire::Impaired(_) => Some(Middle::new("wire", &r1, &r2, mtu)?),
            Wire::Netem(impairment) => {
                let middle = Middle::new("wire", &r1, &r2, mtu)?;
                middle.switch_between(&["to-r1", "to-r2"], mtu)?;
                netem::add(&middle.namespace, "to-r1", impairment)?;
                netem::add(&middle.namespace, "to-r2", impairment)?;
                Some(middle)
            }
        };
        let mut network = Self { r1, r2, middle };
        network.r1.configure(mtu)?;
        network.r2.configure(mtu)?;
        if matches!(wire, Wire::Impaired(_) | Wire::Netem(_)) {
            // What is between passes on what it is given: nothing merged, all checksums filled in.
            for router in [&network.r1, &network.r2] {
                link::disable_offloads(&router.namespace, INTERFACE)?;
            }
        }
        if let (Wire::Impaired(impairment), Some(middle)) = (wire, &mut network.middle) {
            middle.forwarder = Some(Forwarder::start(&middle.namespace, "to-r1", "to-r2", impairment)?);
        }
        Ok(network)
    }

    /// Applies `key = value` on both routers.
    ///
    /// # Errors
    /// If there is no such key.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.r1.namespace.sysctl(key, value)?;
        self.r2.namespace.sysctl(key, value)
    }

    /// The attacker.
    ///
    /// # Panics
    /// If the routers are not on a switch.
    pub fn attacker(&self) -> &Router {
        let attacker = self.middle.as_ref().and_then(|middle| middle.attacker.as_ref());
        attacker.expect("the test made a network with a switch")
    }

    /// Listens on the wire beside `r1`: frames as the routers really sent them.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn sniff(&self) -> Result<Sniffer> {
        let (namespace, interface) = self.tap();
        Sniffer::start(namespace, interface)
    }

    /// Namespace and interface from which everything on the wire is seen once.
    pub fn tap(&self) -> (&Namespace, &str) {
        match &self.middle {
            Some(middle) => (&middle.namespace, "to-r1"),
            None => (&self.r1.namespace, INTERFACE),
        }
    }

    /// Joins the routers by a second link, `interface` on both, 198.18.0.1 and 198.18.0.2.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn add_link(&self, interface: &str) -> Result<()> {
        self.r1.namespace.ip(&veth(interface, &self.r2.namespace, interface))?;
        for (router, address) in [(&self.r1, "198.18.0.1/24"), (&self.r2, "198.18.0.2/24")] {
            router.namespace.ip(&["address", "add", address, "dev", interface])?;
            router.namespace.ip(&["link", "set", interface, "up"])?;
        }
        Ok(())
    }
}

impl Router {
    /// Makes a container on a macvlan above the router's link: a namespace whose [`INTERFACE`] has `address`, with its
    /// prefix length, and is up.
    ///
    /// # Errors
    /// If a command fails.
    pub fn container_on_macvlan(&self, address: &str) -> Result<Namespace> {
        let container = Namespace::create("container")?;
        self.namespace
            .ip(&["link", "add", "above", "link", INTERFACE, "type", "macvlan", "mode", "bridge"])?;
        self.namespace.ip(&["link", "set", "above", "netns", container.name(), "name", INTERFACE])?;
        container.ip(&["address", "add", address, "dev", INTERFACE])?;
        container.ip(&["link", "set", INTERFACE, "up"])?;
        Ok(container)
    }

    /// Its MAC address as `ip` writes it.
    pub fn mac_text(&self) -> String {
        self.mac.map(|octet| format!("{octet:02x}")).join(":")
    }

    fn new(role: &str, number: u8) -> Result<Self> {
        Ok(Self {
            namespace: Namespace::create(role)?,
            v4: Ipv4Addr::new(192, 0, 2, number),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
            link_local: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into()),
            mac: [2, 0, 0, 0, 0, number],
        })
    }

    fn configure(&self, mtu: u32) -> Result<()> {
        let mac = self.mac_text();
        let ns = &self.namespace;
        ns.ip(&["link", "set", INTERFACE, "address", &mac, "mtu", &mtu.to_string(), "addrgenmode", "none"])?;
        for address in
            [format!("{}/24", self.v4), format!("{}/64", self.v6), format!("{}/64", self.link_local)]
        {
            ns.ip(&["address", "add", &address, "dev", INTERFACE])?;
        }
        ns.ip(&["link", "set", INTERFACE, "up"])?;
        Ok(())
    }
}

impl Middle {
    fn new(role: &str, r1: &Router, r2: &Router, mtu: u32) -> Result<Self> {
        let namespace = Namespace::create(role)?;
        for (router, port) in [(r1, "to-r1"), (r2, "to-r2")] {
            router.namespace.ip(&veth(INTERFACE, &namespace, port))?;
            bring_up(&namespace, port, mtu)?;
        }
        Ok(Self { namespace, attacker: None, forwarder: None })
    }

    fn switch(r1: &Router, r2: &Router, mtu: u32) -> Result<Self> {
        let mut switch = Self::new("switch", r1, r2, mtu)?;
        let attacker = Router::new("attacker", 66)?;
        attacker.namespace.ip(&veth(INTERFACE, &switch.namespace, "to-attacker"))?;
        attacker.configure(mtu)?;
        bring_up(&switch.namespace, "to-attacker", mtu)?;
        switch.switch_between(&["to-r1", "to-r2", "to-attacker"], mtu)?;
        switch.attacker = Some(attacker);
        Ok(switch)
    }

    fn switch_between(&self, ports: &[&str], mtu: u32) -> Result<()> {
        pass_by_filters(&self.namespace)?;
        self.namespace.ip(&["link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"])?;
        for port in ports {
            self.namespace.ip(&["link", "set", port, "master", "bridge"])?;
        }
        self.namespace.ip(&["link", "set", "bridge", "mtu", &mtu.to_string(), "up"])?;
        Ok(())
    }

    /// TCP segments lost between the routers, by the forwarder, or frames of any kind by netem.
    ///
    /// # Errors
    /// If `tc` does not say.
    pub fn lost(&self) -> Result<u64> {
        match &self.forwarder {
            Some(forwarder) => Ok(forwarder.treated().lost),
            None => Ok(netem::lost(&self.namespace, "to-r1")? + netem::lost(&self.namespace, "to-r2")?),
        }
    }
}

/// A switch looks at no IP header; a kernel with br_netfilter does for each frame, and takes as long as to refuse it.
fn pass_by_filters(switch: &Namespace) -> Result<()> {
    if Path::new("/proc/sys/net/bridge").exists() {
        for filter in ["arptables", "ip6tables", "iptables"] {
            switch.sysctl(&format!("net.bridge.bridge-nf-call-{filter}"), "0")?;
        }
    }
    Ok(())
}

fn bring_up(namespace: &Namespace, interface: &str, mtu: u32) -> Result<()> {
    namespace.ip(&["link", "set", interface, "mtu", &mtu.to_string(), "addrgenmode", "none", "up"])?;
    Ok(())
}

/// Returns the arguments of `ip` that make a veth from `here` to `peer` in the namespace `there`.
pub fn veth<'a>(here: &'a str, there: &'a Namespace, peer: &'a str) -> [&'a str; 10] {
    ["link", "add", here, "type", "veth", "peer", "name", peer, "netns", there.name()]
}
