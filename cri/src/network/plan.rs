//! What the built-in bridge and a pod's interfaces are to look like, as data.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::leases::Settings;
use super::netlink::{Link, Mac, Netlink, Veth};
use super::netns;
use super::subnet::mac;

/// Name of a pod's interface inside its namespace.
const POD_INTERFACE: &str = "eth0";
/// What the host's ends of pods' interfaces begin with.
const VETH_PREFIX: &str = "rr";

/// The bridge and what the kernel must allow for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePlan {
    name: String,
    /// Written on it, so that two daemons on one machine do not share a bridge by mistake.
    owner: String,
    mac: Mac,
    addresses: Vec<(IpAddr, u8)>,
    /// Files below /proc/sys/net and what they must hold.
    sysctls: Vec<(String, &'static str)>,
    forward6: bool,
}

/// A pod's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlan {
    veth: String,
    group: u32,
    mac: Mac,
    mtu: u32,
    /// Each address and the gateway of its family.
    addresses: Vec<(IpAddr, IpAddr)>,
}

impl BridgePlan {
    /// The bridge of `settings`.
    pub fn new(settings: &Settings, owner: &str) -> Self {
        let name = &settings.bridge;
        let gateway = settings.subnet.gateway();
        let mut addresses = vec![(IpAddr::V4(gateway), settings.subnet.prefix())];
        addresses.extend(
            settings
                .prefix6
                .map(|prefix| (IpAddr::V6(prefix.with(gateway)), 64)),
        );
        let sysctls = vec![
            ("ipv4/ip_forward".to_owned(), "1"),
            // Host ports of 127.0.0.1 lead out of the loopback; the rules guard it.
            (format!("ipv4/conf/{name}/route_localnet"), "1"),
        ];
        Self {
            name: name.clone(),
            owner: owner.to_owned(),
            mac: mac(gateway),
            addresses,
            sysctls,
            forward6: settings.prefix6.is_some(),
        }
    }

    /// Makes what is missing of it, and gives its index.
    pub fn execute(&self, netlink: &Netlink) -> Result<u32> {
        let link = self.link(netlink)?;
        for (address, prefix) in &self.addresses {
            netlink.add_address(link.index, *address, *prefix)?;
        }
        netlink.set_up(link.index)?;
        for (file, value) in &self.sysctls {
            set_sysctl(&Path::new("/proc/sys/net").join(file), value)?;
        }
        if self.forward6 {
            forward_ipv6()?;
        }
        Ok(link.index)
    }

    fn link(&self, netlink: &Netlink) -> Result<Link> {
        if netlink.link(&self.name)?.is_none() {
            netlink.add_bridge(&self.name, self.mac)?;
        }
        let link = netlink.link(&self.name)?;
        let link = link.with_context(|| format!("bridge {} went away", self.name))?;
        // Without an alias it is ours, made by a daemon that was killed right after.
        ensure!(
            link.kind == "bridge" && [&self.owner, ""].contains(&link.alias.as_str()),
            "interface {} is there already ({} {:?}): it goes to another name with the next pod \
             once the last one is gone",
            self.name,
            link.kind,
            link.alias
        );
        if link.alias.is_empty() {
            netlink.set_alias(link.index, &self.owner)?;
        }
        Ok(link)
    }
}

/// The name for a new bridge: `wanted`, or, where that is somebody else's interface, the first
/// free one with a number for its last digits.
pub fn choose_name(wanted: &str, owner: &str, links: &[Link]) -> Result<String> {
    let stem = wanted.trim_end_matches(|c: char| c.is_ascii_digit());
    let others = (1..1000)
        .map(|n| format!("{stem}{n}"))
        .filter(|name| name.len() < 16);
    std::iter::once(wanted.to_owned())
        .chain(others)
        .find(|name| {
            let taken = links.iter().find(|link| link.name == *name);
            taken.is_none_or(|link| link.kind == "bridge" && link.alias == owner)
        })
        .with_context(|| format!("no bridge name like {wanted} is free"))
}

impl PodPlan {
    /// The interfaces of the pod that has `address`.
    pub fn new(pod_id: &str, address: Ipv4Addr, settings: &Settings, mtu: u32) -> Self {
        let gateway = settings.subnet.gateway();
        let mut addresses = vec![(address.into(), gateway.into())];
        if let Some(prefix) = settings.prefix6 {
            addresses.push((prefix.with(address).into(), prefix.with(gateway).into()));
        }
        Self {
            veth: veth_name(pod_id),
            group: port_group(&settings.bridge),
            mac: mac(address),
            mtu,
            addresses,
        }
    }

    /// Makes them. An interface of the same name is left from a setup that was cut short.
    pub fn execute(&self, netlink: &Netlink, bridge: u32, namespace: &Path) -> Result<Vec<IpAddr>> {
        netlink.delete_link(&self.veth)?;
        let netns = fs::File::open(namespace)
            .with_context(|| format!("network namespace {}", namespace.display()))?;
        netlink.add_veth(&Veth {
            name: &self.veth,
            master: bridge,
            group: self.group,
            mtu: self.mtu,
            peer: POD_INTERFACE,
            peer_mac: self.mac,
            netns: &OwnedFd::from(netns),
        })?;
        let port = netlink.link(&self.veth)?;
        let port = port.with_context(|| format!("interface {} went away", self.veth))?;
        // For a pod that comes to itself by a translated address, with br_netfilter (see below).
        netlink.set_hairpin(port.index)?;
        let addresses = self.addresses.clone();
        netns::inside(namespace, move || configure_pod(&addresses))
    }
}

/// Sets up the interfaces of the namespace that the calling thread is in, and gives the addresses
/// that they have.
fn configure_pod(addresses: &[(IpAddr, IpAddr)]) -> Result<Vec<IpAddr>> {
    let netlink = Netlink::open()?;
    set_loopback_up(&netlink)?;
    let link = netlink
        .link(POD_INTERFACE)?
        .context("the pod's interface went away")?;
    let six = ipv6_is_on();
    let usable: Vec<_> = addresses
        .iter()
        .filter(|(address, _)| address.is_ipv4() || six)
        .collect();
    // Alone in its prefix, the pod reaches other pods by the host, which so sees both directions
    // and can translate back what it translated. Ports of the bridge are not isolated: with
    // br_netfilter's bridge-nf-call-iptables the kernel forwards a translated frame on the bridge.
    // What a pod sends to a neighbour's own address is dropped by a rule (rules::guard).
    for (address, _) in &usable {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        netlink.add_address(link.index, *address, whole)?;
    }
    netlink.set_up(link.index)?;
    for (_, gateway) in &usable {
        netlink.add_default_route(link.index, *gateway)?;
    }
    Ok(usable.into_iter().map(|(address, _)| *address).collect())
}

/// Sets the loopback of the calling thread's namespace up.
pub fn set_loopback_up(netlink: &Netlink) -> Result<()> {
    let lo = netlink
        .link("lo")?
        .context("the namespace has no loopback")?;
    netlink.set_up(lo.index)
}

/// Name of the host's end of a pod's interface: 15 characters at most, the same for the same pod
/// in every version.
pub fn veth_name(pod_id: &str) -> String {
    format!("{VETH_PREFIX}{:012x}", hash(pod_id) >> 16)
}

/// Group of the interfaces that are ports of a bridge: nothing else has it, and two daemons' bridges
/// have different ones.
pub fn port_group(bridge: &str) -> u32 {
    0x4000_0000 | (hash(bridge) >> 34) as u32
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether an interface looks like a pod's on the bridge with index `bridge`.
pub fn is_pod_port(link: &Link, bridge: u32) -> bool {
    link.master == bridge && link.kind == "veth" && link.name.starts_with(VETH_PREFIX)
}

/// Whether the calling thread's namespace has IPv6.
pub fn ipv6_is_on() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    disabled.is_ok_and(|value| value.trim() == "0")
}

/// Largest packet of the interfaces that the default routes leave by; 1500 without one.
pub fn mtu(netlink: &Netlink) -> Result<u32> {
    let routes = netlink.routes()?;
    let links = netlink.links()?;
    let default = routes.iter().filter(|route| route.prefix == 0);
    let mtus = default.filter_map(|route| {
        let link = links.iter().find(|link| link.index == route.interface);
        link.map(|link| link.mtu)
    });
    Ok(mtus
        .filter(|mtu| *mtu >= 1280)
        .min()
        .unwrap_or(1500)
        .min(65535))
}

/// Turns IPv6 forwarding on. An interface that takes router advertisements goes on doing so,
/// which it would not with forwarding on (accept_ra 1, Documentation/networking/ip-sysctl).
fn forward_ipv6() -> Result<()> {
    let conf = PathBuf::from("/proc/sys/net/ipv6/conf");
    let forwarding = conf.join("all/forwarding");
    if read_sysctl(&forwarding)?.as_deref() == Some("1") {
        return Ok(());
    }
    let entries = fs::read_dir(&conf).with_context(|| format!("list {}", conf.display()))?;
    for entry in entries.flatten() {
        let accept = entry.path().join("accept_ra");
        if read_sysctl(&accept)?.as_deref() == Some("1") {
            set_sysctl(&accept, "2")?;
        }
    }
    set_sysctl(&forwarding, "1")
}

fn read_sysctl(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        // An interface may go away at any time.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes only what differs, so that a read-only /proc/sys that is right will do.
fn set_sysctl(path: &Path, value: &str) -> Result<()> {
    if read_sysctl(path)?.as_deref() == Some(value) {
        return Ok(());
    }
    fs::write(path, value).with_context(|| format!("write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::subnet::Prefix6;
    use super::*;

    fn settings(six: bool) -> Settings {
        Settings::new(
            "rrun0",
            "10.1.0.0/24".parse().unwrap(),
            six.then(|| Prefix6::new([1; 5])),
        )
    }

    #[test]
    fn a_bridge_has_the_gateways_of_its_pods() {
        let bridge = BridgePlan::new(&settings(true), "me");
        let pod = PodPlan::new("a", "10.1.0.9".parse().unwrap(), &settings(true), 1500);
        let gateways: Vec<_> = pod.addresses.iter().map(|(_, gateway)| *gateway).collect();
        let own: Vec<_> = bridge
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .collect();
        assert_eq!(gateways, own);
        assert!(bridge.forward6);
    }

    #[test]
    fn without_ipv6_there_is_one_address() {
        let pod = PodPlan::new("a", "10.1.0.9".parse().unwrap(), &settings(false), 1500);
        assert_eq!(pod.addresses.len(), 1);
        assert!(!BridgePlan::new(&settings(false), "me").forward6);
    }

    #[test]
    fn a_name_that_is_somebody_elses_is_left_alone() {
        let link = |name: &str, kind: &str, alias: &str| Link {
            index: 9,
            name: name.into(),
            kind: kind.into(),
            mtu: 1500,
            master: 0,
            alias: alias.into(),
        };
        let links = [
            link("rrun0", "bridge", "other"),
            link("rrun1", "veth", "me"),
        ];
        assert_eq!(choose_name("rrun0", "me", &[]).unwrap(), "rrun0");
        assert_eq!(choose_name("rrun0", "me", &links).unwrap(), "rrun2");
        assert_eq!(choose_name("rrun0", "other", &links).unwrap(), "rrun0");
    }

    #[test]
    fn interface_names_fit_and_differ() {
        let names: std::collections::BTreeSet<_> =
            (0..1000).map(|n| veth_name(&format!("{n:064x}"))).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() < 16));
        assert_eq!(veth_name("a"), "rraf63dc4c8601");
    }
}
