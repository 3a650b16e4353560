//! Cluster addresses and node ports of Services.
//!
//! Who has what is read from the services themselves, so nothing has to be repaired after a crash;
//! a lock around writes of services keeps two of them from being given the same.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::validate::{Faults, text};
use crate::store::Object;

/// Ports that are given out, Kubernetes' default range.
pub const NODE_PORTS: RangeInclusive<i64> = 30000..=32767;

/// Addresses that are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: u32,
    bits: u32,
}

impl std::str::FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: want an IPv4 range such as 10.96.0.0/16, of /8 to /28");
        let (ip, bits) = text.split_once('/').ok_or_else(bad)?;
        let (ip, bits): (Ipv4Addr, u32) = (
            ip.parse().map_err(|_| bad())?,
            bits.parse().map_err(|_| bad())?,
        );
        if !(8..=28).contains(&bits) {
            return Err(bad());
        }
        Ok(Self {
            network: u32::from(ip) & (u32::MAX << (32 - bits)),
            bits,
        })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.bits)
    }
}

impl Default for Cidr {
    fn default() -> Self {
        Self {
            network: u32::from(Ipv4Addr::new(10, 96, 0, 0)),
            bits: 16,
        }
    }
}

impl Cidr {
    fn size(self) -> u32 {
        1 << (32 - self.bits)
    }

    /// The address at an offset: 1 is the API's, 10 by custom DNS'.
    pub fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network + offset)
    }

    /// Whether an address is one of those given out.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        let offset = u32::from(ip).wrapping_sub(self.network);
        (1..self.size() - 1).contains(&offset)
    }
}

struct InUse {
    addresses: HashSet<String>,
    ports: HashSet<(String, i64)>,
}

impl InUse {
    fn by_others(services: &[std::sync::Arc<Object>], uid: &str) -> Self {
        let (mut addresses, mut ports) = (HashSet::new(), HashSet::new());
        for s in services.iter().filter(|s| s.uid() != uid) {
            addresses.insert(s.str_at("/spec/clusterIP").to_owned());
            for p in s.at("/spec/ports").as_array().into_iter().flatten() {
                let port = p["nodePort"].as_i64().unwrap_or(0);
                ports.insert((text(p, "protocol").to_owned(), port));
            }
            let health = s.int_at("/spec/healthCheckNodePort").unwrap_or(0);
            ports.insert(("TCP".into(), health));
        }
        Self { addresses, ports }
    }
}

/// Gives a service its address and ports, or finds why it cannot have the ones it asks for.
pub(super) fn service(
    cidr: Cidr,
    others: &[std::sync::Arc<Object>],
    old: Option<&Value>,
    new: &mut Value,
    faults: &mut Faults,
) {
    let uid = text(&new["metadata"], "uid").to_owned();
    let used = InUse::by_others(others, &uid);
    address(cidr, &used, old, new, faults);
    ports(&used, old, new, faults);
}

fn address(cidr: Cidr, used: &InUse, old: Option<&Value>, new: &mut Value, faults: &mut Faults) {
    let spec = &mut new["spec"];
    if spec["type"] == "ExternalName" {
        if let Some(map) = spec.as_object_mut() {
            // What the service had is free again; what a user asks for is left for validation.
            let had = old
                .map(|o| text(&o["spec"], "clusterIP"))
                .unwrap_or_default();
            if map.get("clusterIP").and_then(Value::as_str) == Some(had) {
                map.remove("clusterIP");
                map.remove("clusterIPs");
            }
        }
        return;
    }
    let mut wanted = text(spec, "clusterIP").to_owned();
    if wanted.is_empty() {
        let listed = spec["clusterIPs"].get(0).and_then(Value::as_str);
        let had = old.map(|o| text(&o["spec"], "clusterIP"));
        listed.or(had).unwrap_or_default().clone_into(&mut wanted);
    }
    if wanted.is_empty() {
        match free_address(cidr, used) {
            Some(ip) => wanted = ip.to_string(),
            None => {
                let why = format!("failed to allocate a serviceIP: range {cidr} is full");
                return faults.invalid("spec.clusterIPs", &json!([]), why);
            }
        }
    } else if wanted != "None" {
        let kept = old.is_some_and(|o| text(&o["spec"], "clusterIP") == wanted);
        match wanted.parse::<Ipv4Addr>() {
            Err(_) => faults.invalid_str(
                "spec.clusterIPs[0]",
                &wanted,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            Ok(ip) if !kept && !cidr.contains(ip) => {
                let why = format!(
                    "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
                );
                faults.invalid("spec.clusterIPs", &json!([wanted]), why);
            }
            Ok(ip) if used.addresses.contains(&wanted) => {
                let why = format!("failed to allocate IP {ip}: provided IP is already allocated");
                faults.invalid("spec.clusterIPs", &json!([wanted]), why);
            }
            Ok(_) => {}
        }
    }
    spec["clusterIP"] = json!(wanted);
    spec["clusterIPs"] = json!([wanted]);
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel's random numbers are ready");
    u32::from_ne_bytes(bytes)
}

/// From a random place on, so that an address is not soon given to another service.
fn free_address(cidr: Cidr, used: &InUse) -> Option<Ipv4Addr> {
    // The first sixteen are left for services that ask for one.
    let first = if cidr.size() > 32 { 16 } else { 1 };
    let count = cidr.size() - 1 - first;
    let start = random() % count;
    let all = (0..count).map(|i| cidr.at(first + (start + i) % count));
    let mut all = all.filter(|ip| !used.addresses.contains(&ip.to_string()));
    all.next()
}

fn ports(used: &InUse, old: Option<&Value>, new: &mut Value, faults: &mut Faults) {
    let spec = &mut new["spec"];
    let exposed = match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    };
    let was_exposed =
        old.is_some_and(|o| matches!(text(&o["spec"], "type"), "NodePort" | "LoadBalancer"));
    let mut own: HashSet<(String, i64)> = HashSet::new();
    for (i, port) in spec["ports"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let protocol = text(port, "protocol").to_owned();
        let asked = port["nodePort"].as_i64().unwrap_or(0);
        let path = format!("spec.ports[{i}].nodePort");
        let had = old.and_then(|o| had_port(o, port));
        if !exposed {
            if asked != 0 && was_exposed && had == Some(asked) {
                port.as_object_mut().map(|p| p.remove("nodePort"));
            } else if asked != 0 {
                faults.forbidden(path, "may not be used when `type` is 'ClusterIP'");
            }
            continue;
        }
        let free = |n: i64, own: &HashSet<(String, i64)>| {
            let key = (protocol.clone(), n);
            !used.ports.contains(&key) && !own.contains(&key)
        };
        let number = if asked != 0 {
            Some(asked)
        } else {
            had.or_else(|| free_port(|n| free(n, &own)))
        };
        let Some(number) = number else {
            faults.invalid(
                path,
                &json!(0),
                "failed to allocate a nodePort: range is full",
            );
            continue;
        };
        if !NODE_PORTS.contains(&number) {
            let why =
                "provided port is not in the valid range. The range of valid ports is 30000-32767";
            faults.invalid(path, &json!(number), why);
        } else if !free(number, &own) {
            faults.invalid(path, &json!(number), "provided port is already allocated");
        }
        own.insert((protocol, number));
        port["nodePort"] = json!(number);
    }
}

/// The node port that the same port had before.
fn had_port(old: &Value, port: &Value) -> Option<i64> {
    let all = old["spec"]["ports"].as_array()?;
    let same = all
        .iter()
        .find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"])?;
    same["nodePort"].as_i64().filter(|n| *n > 0)
}

fn free_port(free: impl Fn(i64) -> bool) -> Option<i64> {
    let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
    let start = i64::from(random()) % count;
    (0..count)
        .map(|i| NODE_PORTS.start() + (start + i) % count)
        .find(|n| free(*n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(others: &[std::sync::Arc<Object>], old: Option<&Value>, spec: Value) -> (Value, usize) {
        let (mut new, mut faults) = (
            json!({"metadata": {"uid": "me"}, "spec": spec}),
            Faults::default(),
        );
        service(
            "10.96.0.0/28".parse().unwrap(),
            others,
            old,
            &mut new,
            &mut faults,
        );
        (new, faults.into_causes().len())
    }

    #[test]
    fn addresses_are_unique_kept_and_exhausted() {
        let mut all = Vec::new();
        for i in 0..14 {
            let (mut s, faults) = give(&all, None, json!({"type": "ClusterIP"}));
            assert_eq!(faults, 0, "{i}");
            let again = give(&all, Some(&s), json!({"type": "ClusterIP"})).0;
            assert_eq!(again["spec"]["clusterIP"], s["spec"]["clusterIP"]);
            s["metadata"]["uid"] = json!(i.to_string());
            all.push(Object::from_value(1, s));
        }
        let distinct: HashSet<_> = all
            .iter()
            .map(|s| s.str_at("/spec/clusterIP").to_owned())
            .collect();
        assert_eq!(distinct.len(), 14);
        assert_eq!(give(&all, None, json!({"type": "ClusterIP"})).1, 1);
        assert_eq!(give(&all, None, json!({"clusterIP": "10.96.0.3"})).1, 1);
        assert_eq!(give(&[], None, json!({"clusterIP": "10.97.0.3"})).1, 1);
        assert_eq!(
            give(&all, None, json!({"clusterIP": "None"})).0["spec"]["clusterIP"],
            "None"
        );
    }

    #[test]
    fn node_ports_come_and_go_with_the_type() {
        let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]);
        let (s, _) = give(&[], None, json!({"type": "NodePort", "ports": ports}));
        let first = s["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
        assert!(NODE_PORTS.contains(&first));
        let (back, faults) = give(&[], Some(&s), {
            let mut spec = s["spec"].clone();
            spec["type"] = json!("ClusterIP");
            spec
        });
        assert_eq!(
            (faults, &back["spec"]["ports"][0]["nodePort"]),
            (0, &Value::Null)
        );
        let mut other = s;
        other["metadata"]["uid"] = json!("other");
        let taken = [Object::from_value(1, other)];
        let same = json!({"type": "NodePort", "ports": [{"port": 1, "protocol": "TCP", "nodePort": first}]});
        assert_eq!(give(&taken, None, same).1, 1);
        let out =
            json!({"type": "NodePort", "ports": [{"port": 1, "protocol": "TCP", "nodePort": 80}]});
        assert_eq!(give(&[], None, out).1, 1);
    }
}
