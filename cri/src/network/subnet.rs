//! The subnet of the built-in bridge: which one, and which address goes to whom.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::netlink::{Mac, Route};

/// An IPv4 network in `address/bits` form, of 8 to 29 bits, so that it has room for a gateway
/// and pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Length of the network's part in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's address: the first of the subnet.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    fn broadcast(self) -> u32 {
        self.network.to_bits() | (u32::MAX >> self.prefix)
    }

    /// Whether `address` may be a pod's.
    fn has_pod(self, address: Ipv4Addr) -> bool {
        let bits = address.to_bits();
        bits > self.network.to_bits() + 1 && bits < self.broadcast()
    }

    fn overlaps(self, route: &Route) -> bool {
        let IpAddr::V4(destination) = route.destination else {
            return false;
        };
        if route.prefix == 0 || route.prefix > 32 {
            // Every address is below the default route.
            return false;
        }
        let shared = u32::MAX << (32 - u32::from(self.prefix.min(route.prefix)));
        (destination.to_bits() ^ self.network.to_bits()) & shared == 0
    }

    /// The first free pod address after `last`, beginning again at the start, so that an address
    /// is used again as late as can be. None where all are taken.
    pub fn next_free(self, last: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let (first, end) = (self.network.to_bits() + 2, self.broadcast());
        let start = last
            .filter(|last| self.has_pod(*last))
            .map_or(first, |last| last.to_bits() + 1);
        (start..end)
            .chain(first..start)
            .map(Ipv4Addr::from_bits)
            .find(|address| !taken.contains(address))
    }
}

impl FromStr for Subnet {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, prefix) = text
            .split_once('/')
            .with_context(|| format!("subnet {text:?}: expected ADDRESS/BITS, as 10.88.0.0/16"))?;
        let address: Ipv4Addr = address
            .parse()
            .with_context(|| format!("subnet {text:?}: the address is not IPv4"))?;
        let prefix: u8 = prefix
            .parse()
            .with_context(|| format!("subnet {text:?}: the prefix is not a number"))?;
        ensure!(
            (8..=29).contains(&prefix),
            "subnet {text:?}: the prefix must be 8 to 29"
        );
        let network = Ipv4Addr::from_bits(address.to_bits() & !(u32::MAX >> prefix));
        ensure!(
            network == address,
            "subnet {text:?} has host bits: {network}/{prefix} is meant?"
        );
        Ok(Self { network, prefix })
    }
}

impl TryFrom<String> for Subnet {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// The subnet to use: `wanted`, or, where the machine has a route into it, the first of a list of
/// private networks that it has no route into.
pub fn choose(wanted: Subnet, routes: &[Route]) -> Result<Subnet> {
    let tens = (89..128).map(|n| Subnet {
        network: Ipv4Addr::new(10, n, 0, 0),
        prefix: 16,
    });
    let small = (200..255).map(|n| Subnet {
        network: Ipv4Addr::new(192, 168, n, 0),
        prefix: 24,
    });
    std::iter::once(wanted)
        .chain(tens)
        .chain(small)
        .find(|subnet| !routes.iter().any(|route| subnet.overlaps(route)))
        .with_context(|| {
            format!("no free subnet: the machine has routes into {wanted} and all alternatives")
        })
}

/// The IPv6 prefix of the bridge: 96 bits of a unique local network (RFC 4193), to which a pod's
/// IPv4 address is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix6(Ipv6Addr);

impl Prefix6 {
    /// From 40 random bits, the global id of RFC 4193.
    pub fn new(global_id: [u8; 5]) -> Self {
        let [a, b, c, d, e] = global_id;
        Self(Ipv6Addr::from([
            0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ]))
    }

    /// The IPv6 address of whoever has `address`.
    pub fn with(self, address: Ipv4Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0.to_bits() | u128::from(address.to_bits()))
    }

    /// The network, as `fd…::/64`.
    pub fn network(self) -> String {
        format!("{}/64", self.0)
    }
}

/// A locally administered Ethernet address made from an IPv4 address, which is unique on the
/// bridge.
pub fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn route(text: &str) -> Route {
        let (address, prefix) = text.split_once('/').unwrap();
        Route {
            destination: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            interface: 2,
        }
    }

    #[test]
    fn host_bits_and_other_nonsense_are_refused() {
        for text in [
            "10.88.0.1/16",
            "10.88.0.0",
            "10.88.0.0/30",
            "10.88.0.0/4",
            "fd00::/16",
            "/",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_subnet_with_a_route_into_it_is_not_used() {
        let wanted = subnet("10.88.0.0/16");
        let default = route("0.0.0.0/0");
        assert_eq!(choose(wanted, &[default]).unwrap(), wanted);
        let podman = route("10.88.0.0/16");
        assert_eq!(
            choose(wanted, &[default, podman]).unwrap(),
            subnet("10.89.0.0/16")
        );
        let host = route("10.88.7.1/32");
        assert_eq!(choose(wanted, &[host]).unwrap(), subnet("10.89.0.0/16"));
        let ten = route("10.0.0.0/8");
        assert_eq!(choose(wanted, &[ten]).unwrap(), subnet("192.168.200.0/24"));
        assert!(choose(wanted, &[ten, route("192.168.0.0/16")]).is_err());
    }

    #[test]
    fn a_released_address_is_used_again_last() {
        let small = subnet("10.0.0.0/29");
        let taken = BTreeSet::from(["10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap()]);
        let next = |last: &str| small.next_free(Some(last.parse().unwrap()), &taken);
        assert_eq!(next("10.0.0.3"), Some("10.0.0.4".parse().unwrap()));
        assert_eq!(next("10.0.0.5"), Some("10.0.0.6".parse().unwrap()));
        assert_eq!(next("10.0.0.6"), Some("10.0.0.4".parse().unwrap()));
    }

    #[test]
    fn a_pods_ipv6_address_ends_with_its_ipv4_address() {
        let prefix = Prefix6::new([1, 2, 3, 4, 5]);
        let address = prefix.with("10.88.0.5".parse().unwrap());
        assert_eq!(address.to_string(), "fd01:203:405::a58:5");
        assert_eq!(prefix.network(), "fd01:203:405::/64");
    }

    proptest! {
        #[test]
        fn every_address_is_given_once(prefix in 26u8..=29, start: u8) {
            let all = subnet(&format!("10.1.0.0/{prefix}"));
            let mut taken = BTreeSet::new();
            let mut last = Some(Ipv4Addr::new(10, 1, 0, start));
            while let Some(address) = all.next_free(last, &taken) {
                prop_assert!(all.has_pod(address) && taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), (1 << (32 - prefix)) - 3);
        }
    }
}
