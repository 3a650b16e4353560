//! The text of the table for nft.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::mark::MARK;
use super::plan::{Backend, Own, Port};

/// The text that replaces the table by one with these ports, in one transaction.
pub fn script(table: &str, ports: &[Port], own: &[Own]) -> String {
    let mut out =
        format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    for six in [false, true] {
        let mine: Vec<&Port> = ports
            .iter()
            .filter(|p| p.addresses[0].is_ipv6() == six)
            .collect();
        family(&mut out, six, &mine);
    }
    for port in ports {
        chains(&mut out, port);
    }
    let base = BASE.replace("\n    ", "\n  ");
    out.push_str(&base);
    for own in own {
        redirect(&mut out, *own);
    }
    out.push_str("}\n");
    out
}

/// Leads questions to this process. It listens on all addresses of the node, so what did not come
/// by the cluster's address is dropped: the node is nobody else's name server.
fn redirect(out: &mut String, own: Own) {
    let Own {
        name,
        address,
        asked,
        port,
        marked,
    } = own;
    let lead = format!(
        "ip daddr {address} meta l4proto {{ tcp, udp }} th dport {asked} redirect to :{port}"
    );
    let here = format!("meta l4proto {{ tcp, udp }} th dport {port}");
    let only = if marked {
        // What has the port once this process is gone is not kept from others, and gets no questions.
        format!(
            "{here} socket mark {MARK} ct original ip daddr != {address} drop\n    \
             {here} socket mark != {MARK} ct original ip daddr {address} reject"
        )
    } else {
        format!("{here} ct original ip daddr != {address} drop")
    };
    let _ = write!(
        out,
        "  chain {name}_arriving {{\n    type nat hook prerouting priority dstnat; policy accept;\n    {lead}\n  }}\n  \
         chain {name}_local {{\n    type nat hook output priority -100; policy accept;\n    {lead}\n  }}\n  \
         chain {name}_only {{\n    type filter hook input priority filter; policy accept;\n    {only}\n  }}\n"
    );
}

const BASE: &str = "\
  chain services {
    ip daddr . meta l4proto . th dport vmap @services4
    ip6 daddr . meta l4proto . th dport vmap @services6
    fib daddr type local meta l4proto . th dport vmap @nodeports4
    fib daddr type local meta l4proto . th dport vmap @nodeports6
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto { tcp, udp, sctp } jump services
  }
  chain local {
    type nat hook output priority -100; policy accept;
    meta l4proto { tcp, udp, sctp } jump services
  }
  chain unserved {
    ip daddr @addresses4 reject
    ip6 daddr @addresses6 reject
    ip daddr . meta l4proto . th dport @unserved4 reject
    ip6 daddr . meta l4proto . th dport @unserved6 reject
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state new jump unserved
  }
  chain output {
    type filter hook output priority filter; policy accept;
    ct state new jump unserved
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x00004000 == 0x00004000 meta mark set meta mark & 0xffffbfff masquerade
  }
";

/// The sets and maps of one family. What an address of others (a node's own, it may be) has beside
/// the Service's port is not the Service's: only the port refuses where nobody serves it.
fn family(out: &mut String, six: bool, ports: &[&Port]) {
    let (digit, kind) = if six {
        ('6', "ipv6_addr")
    } else {
        ('4', "ipv4_addr")
    };
    let mut addresses: Vec<String> = ports
        .iter()
        .flat_map(|p| &p.addresses)
        .map(ToString::to_string)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let (mut services, mut nodes, mut unserved) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports {
        let (protocol, number) = (port.protocol, port.port);
        let key = |address: &IpAddr| format!("{address} . {protocol} . {number}");
        if !port.backends.is_empty() {
            let inside = chain(port, false);
            services.extend(
                port.addresses
                    .iter()
                    .map(|a| format!("{} : goto {inside}", key(a))),
            );
        }
        if outside(port).is_empty() {
            unserved.extend(port.external.iter().map(key));
            continue;
        }
        let target = chain(port, port.outside.is_some());
        services.extend(
            port.external
                .iter()
                .map(|a| format!("{} : goto {target}", key(a))),
        );
        if let Some(node) = port.node_port {
            nodes.push(format!("{protocol} . {node} : goto {target}"));
        }
    }
    unserved.sort_unstable();
    unserved.dedup();
    let key = format!("{kind} . inet_proto . inet_service");
    collection(out, "set", &format!("addresses{digit}"), kind, &addresses);
    collection(out, "set", &format!("unserved{digit}"), &key, &unserved);
    let key = format!("{key} : verdict");
    collection(out, "map", &format!("services{digit}"), &key, &services);
    let key = "inet_proto . inet_service : verdict";
    collection(out, "map", &format!("nodeports{digit}"), key, &nodes);
}

/// Endpoints of connections that come by an address of others.
fn outside(port: &Port) -> &[Backend] {
    port.outside.as_deref().unwrap_or(&port.backends)
}

fn collection(out: &mut String, what: &str, name: &str, kind: &str, elements: &[String]) {
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("\n    elements = {{ {} }}", elements.join(",\n      "))
    };
    let _ = writeln!(out, "  {what} {name} {{\n    type {kind}{elements}\n  }}");
}

/// The chain of a port: its name says nothing but is the same each time.
fn chain(port: &Port, outside: bool) -> String {
    let six = if port.addresses[0].is_ipv6() { "6" } else { "" };
    let out = if outside { "-out" } else { "" };
    let hash = crate::controllers::objects::short_hash(&port.name);
    format!("svc-{hash}{six}{out}")
}

/// A chain that chooses an endpoint, and one for each endpoint.
fn chains(out: &mut String, port: &Port) {
    chosen(out, port, &chain(port, false), &port.backends);
    if let Some(outside) = &port.outside {
        chosen(out, port, &chain(port, true), outside);
    }
}

fn chosen(out: &mut String, port: &Port, name: &str, backends: &[Backend]) {
    let count = backends.len();
    if count == 0 {
        return;
    }
    let family = if port.addresses[0].is_ipv6() {
        "ip6"
    } else {
        "ip"
    };
    for (index, backend) in backends.iter().enumerate() {
        let Backend { ip, port: number } = backend;
        let target = if ip.is_ipv6() {
            format!("[{ip}]:{number}")
        } else {
            format!("{ip}:{number}")
        };
        let protocol = port.protocol;
        // An endpoint that comes to itself gets the answer from where it asked, not from itself.
        let _ = writeln!(
            out,
            "  chain {name}-{index} {{\n    {family} saddr {ip} meta mark set meta mark | 0x00004000\n    \
             meta l4proto {protocol} dnat {family} to {target}\n  }}"
        );
    }
    let (choice, places): (String, Vec<usize>) = if port.sticky {
        // With a seed of its own, each loading would send everybody elsewhere.
        let choice = format!("jhash {family} saddr mod {PLACES} seed 0x72727564");
        (choice, places(backends))
    } else {
        (format!("numgen inc mod {count}"), (0..count).collect())
    };
    let to: Vec<String> = places
        .iter()
        .enumerate()
        .map(|(place, index)| format!("{place} : goto {name}-{index}"))
        .collect();
    let _ = writeln!(
        out,
        "  chain {name} {{ comment \"{}\"\n    {choice} vmap {{ {} }}\n  }}",
        port.name,
        to.join(", ")
    );
}

/// Clients of a sticky Service are so many kinds.
const PLACES: usize = 256;

/// The endpoint of each kind of client: the one that scores most for it (rendezvous hashing), so that
/// an endpoint that goes moves its own clients alone, and one that comes takes its share and no more.
fn places(backends: &[Backend]) -> Vec<usize> {
    let score = |place: usize, backend: &Backend| {
        // FNV-1a, and a mixing of its bits: which clients are whose must not change with a version.
        let text = format!("{}/{}/{place}", backend.ip, backend.port);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    };
    let best = |place: usize| {
        let all = backends.iter().enumerate();
        all.max_by_key(|(_, backend)| (score(place, backend), **backend))
            .map_or(0, |(index, _)| index)
    };
    (0..PLACES).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticky_clients_stay_when_another_endpoint_goes_or_comes() {
        let all: Vec<Backend> = (1..=5)
            .map(|n| Backend {
                ip: IpAddr::from([10, 0, 0, n]),
                port: 80,
            })
            .collect();
        let before: Vec<Backend> = places(&all).iter().map(|i| all[*i]).collect();
        let gone = all[2];
        let rest: Vec<Backend> = all.iter().copied().filter(|b| *b != gone).collect();
        let after: Vec<Backend> = places(&rest).iter().map(|i| rest[*i]).collect();
        for (was, is) in before.iter().zip(&after) {
            assert!(was == is || *was == gone);
        }
        // Each has its share.
        for backend in &all {
            let share = before.iter().filter(|b| *b == backend).count();
            assert!((25..80).contains(&share), "{share} of {PLACES}");
        }
    }
}
