//! The text of the table for nft.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::cidr::Range;
use super::{Allow, Direction, Group, Ports};

/// Named sets of addresses, each once.
#[derive(Default)]
struct Sets<'a> {
    names: BTreeMap<&'a [Range], usize>,
}

impl<'a> Sets<'a> {
    fn of(groups: &'a [Group]) -> Self {
        let mut sets = Self::default();
        let allows = groups.iter().flat_map(|g| &g.allows);
        for peers in allows.filter_map(|a| a.peers.as_deref()) {
            let next = sets.names.len();
            sets.names.entry(peers).or_insert(next);
        }
        sets
    }

    fn declare(&self, out: &mut String) {
        for (ranges, number) in &self.names {
            for (digit, six) in [(4, false), (6, true)] {
                let mine = ranges.iter().filter(|r| r.six == six);
                let elements: Vec<String> = mine.map(ToString::to_string).collect();
                if elements.is_empty() {
                    continue;
                }
                let _ = writeln!(
                    out,
                    "  set peers{number}_{digit} {{\n    type ipv{digit}_addr\n    flags interval\n    elements = {{ {} }}\n  }}",
                    elements.join(",\n      ")
                );
            }
        }
    }
}

/// The text that replaces the table by one for these groups, in one transaction.
pub fn script(table: &str, groups: &[Group]) -> String {
    let mut out =
        format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    let sets = Sets::of(groups);
    sets.declare(&mut out);
    itself(&mut out, groups);
    for (number, group) in groups.iter().enumerate() {
        chain(&mut out, number, group, &sets);
    }
    for direction in Direction::ALL {
        map(&mut out, direction, groups);
    }
    out.push_str(FORWARD);
    out.push_str("}\n");
    out
}

/// After the Services': a destination is the endpoint by then. A group's chain returns for what is
/// allowed.
const FORWARD: &str = "\
  chain forward {
    type filter hook forward priority filter + 5; policy accept;
    ct state established,related accept
    ip saddr . ip daddr @itself4 accept
    ip6 saddr . ip6 daddr @itself6 accept
    ip saddr vmap @egress4
    ip6 saddr vmap @egress6
    ip daddr vmap @ingress4
    ip6 daddr vmap @ingress6
  }
";

fn family(ip: &IpAddr) -> u8 {
    if ip.is_ipv6() { 6 } else { 4 }
}

/// No policy keeps a pod from itself, which it reaches by a Service.
fn itself(out: &mut String, groups: &[Group]) {
    let mut pods: Vec<&IpAddr> = groups.iter().flat_map(|g| &g.pods).collect();
    pods.sort_unstable();
    pods.dedup();
    for digit in [4, 6] {
        let mine = pods.iter().filter(|ip| family(ip) == digit);
        let all: Vec<String> = mine.map(|ip| format!("{ip} . {ip}")).collect();
        let kind = format!("ipv{digit}_addr . ipv{digit}_addr");
        collection(out, "set", &format!("itself{digit}"), &kind, &all);
    }
}

fn map(out: &mut String, direction: Direction, groups: &[Group]) {
    let name = direction.name().to_lowercase();
    for digit in [4, 6] {
        let numbered = groups.iter().enumerate();
        let mine = numbered.filter(|(_, g)| g.direction == direction);
        let all: Vec<String> = mine
            .flat_map(|(number, g)| {
                let pods = g.pods.iter().filter(|ip| family(ip) == digit);
                pods.map(move |ip| format!("{ip} : jump group{number}"))
            })
            .collect();
        let kind = format!("ipv{digit}_addr : verdict");
        collection(out, "map", &format!("{name}{digit}"), &kind, &all);
    }
}

fn collection(out: &mut String, what: &str, name: &str, kind: &str, elements: &[String]) {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("\n    elements = {{ {} }}", elements.join(",\n      "))
    };
    let _ = writeln!(out, "  {what} {name} {{\n    type {kind}{elements}\n  }}");
}

fn chain(out: &mut String, number: usize, group: &Group, sets: &Sets<'_>) {
    let mut names = group.policies.join(" ");
    // A comment has 128 bytes at most (NFT_USERDATA_MAXLEN and nft's own limit).
    names.truncate(100);
    let way = group.direction.name();
    let _ = writeln!(out, "  chain group{number} {{ comment \"{way}: {names}\"");
    for allow in &group.allows {
        for (of, peers) in matches(group.direction, allow, sets) {
            for ports in ports(&allow.ports, of) {
                let _ = writeln!(out, "    {}return", join(&[&peers, &ports]));
            }
        }
    }
    out.push_str("    drop\n  }\n");
}

fn join(parts: &[&str]) -> String {
    let mut out = String::new();
    for part in parts.iter().filter(|p| !p.is_empty()) {
        out.push_str(part);
        out.push(' ');
    }
    out
}

/// One match for each family that a rule's peers have; one without words for everybody.
fn matches(direction: Direction, allow: &Allow, sets: &Sets<'_>) -> Vec<(Option<u8>, String)> {
    let Some(peers) = &allow.peers else {
        return vec![(None, String::new())];
    };
    let end = match direction {
        Direction::Ingress => "saddr",
        Direction::Egress => "daddr",
    };
    let number = sets.names[peers.as_slice()];
    let mut out = Vec::new();
    for (word, digit, six) in [("ip", 4, false), ("ip6", 6, true)] {
        if peers.iter().any(|r| r.six == six) {
            out.push((Some(digit), format!("{word} {end} @peers{number}_{digit}")));
        }
    }
    out
}

/// What matches the ports, beside a match of a family or of none.
fn ports(ports: &Ports, of: Option<u8>) -> Vec<String> {
    if ports.any {
        return vec![String::new()];
    }
    let mut out = Vec::new();
    if !ports.protocols.is_empty() {
        let names: Vec<&str> = ports.protocols.iter().copied().collect();
        out.push(format!("meta l4proto {{ {} }}", names.join(", ")));
    }
    for (protocol, numbers) in &ports.numbers {
        if ports.protocols.contains(protocol) {
            continue;
        }
        let numbers: Vec<String> = disjoint(numbers.iter().copied())
            .into_iter()
            .map(|(first, last)| {
                if first == last {
                    first.to_string()
                } else {
                    format!("{first}-{last}")
                }
            })
            .collect();
        out.push(format!("{protocol} dport {{ {} }}", numbers.join(", ")));
    }
    let families = [("ip", 4), ("ip6", 6)];
    let families = families
        .into_iter()
        .filter(|(_, digit)| of.is_none_or(|of| of == *digit));
    for (word, digit) in families {
        let mine = ports.named.iter().filter(|(ip, ..)| family(ip) == digit);
        let all: Vec<String> = mine
            .map(|(ip, protocol, number)| format!("{ip} . {protocol} . {number}"))
            .collect();
        if !all.is_empty() {
            out.push(format!(
                "{word} daddr . meta l4proto . th dport {{ {} }}",
                all.join(", ")
            ));
        }
    }
    out
}

/// Ranges in order that do not overlap, which a set may not have.
fn disjoint(ranges: impl Iterator<Item = (u16, u16)>) -> Vec<(u16, u16)> {
    let mut out: Vec<(u16, u16)> = Vec::new();
    // They come in order.
    for (first, last) in ranges {
        match out.last_mut() {
            Some(end) if first <= end.1.saturating_add(1) => end.1 = end.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}
