//! The nftables table of the built-in bridge: made as text from the leases, given to nft whole.
//!
//! Each change replaces the table in one transaction of the kernel, so that what is there is
//! always right for some set of pods, and repeating a change does nothing. Connections that are
//! under way live on: their translation is in the connection tracker.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::leases::{Lease, Port, Settings};

/// Name of the table of a bridge.
pub fn table(bridge: &str) -> String {
    format!("rrun_net_{}", bridge.replace('-', "_"))
}

/// The transaction that replaces the table by what `leases` need.
pub fn replace<'a>(settings: &Settings, leases: impl Iterator<Item = &'a Lease>) -> String {
    let bridge = settings.bridge.as_str();
    let table = table(bridge);
    let elements = Elements::of(settings, leases);
    let mut text = remove(bridge);
    // Writing to a String does not fail.
    let _ = writeln!(text, "table inet {table} {{");
    text += &elements.declare();
    text += &chains(bridge, settings);
    text += "}\n";
    text
}

/// The transaction that removes the table, whether or not there is one.
pub fn remove(bridge: &str) -> String {
    let table = table(bridge);
    // Deleting what is not there would fail the transaction.
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Elements of the table's sets and maps.
#[derive(Default)]
struct Elements {
    /// Host address . protocol . port → pod address . port.
    host4: Vec<String>,
    host6: Vec<String>,
    /// Protocol . port → pod address . port.
    any4: Vec<String>,
    any6: Vec<String>,
    /// Address of a pod with ports, twice: a pod that comes to itself by a host port.
    hairpin4: Vec<String>,
    hairpin6: Vec<String>,
}

impl Elements {
    fn of<'a>(settings: &Settings, leases: impl Iterator<Item = &'a Lease>) -> Self {
        let mut all = Self::default();
        for lease in leases.filter(|lease| !lease.ports.is_empty()) {
            let four = IpAddr::V4(lease.address);
            all.hairpin4.push(format!("{four} . {four}"));
            let six = settings
                .prefix6
                .map(|prefix| IpAddr::V6(prefix.with(lease.address)));
            if let Some(six) = six {
                all.hairpin6.push(format!("{six} . {six}"));
            }
            for port in &lease.ports {
                all.add(port, four, six);
            }
        }
        all
    }

    fn add(&mut self, port: &Port, four: IpAddr, six: Option<IpAddr>) {
        let key = format!("{} . {}", port.protocol.name(), port.host_port);
        let value = |pod: IpAddr| format!("{pod} . {}", port.container_port);
        match (port.host_ip, six) {
            (None, six) => {
                self.any4.push(format!("{key} : {}", value(four)));
                self.any6
                    .extend(six.map(|six| format!("{key} : {}", value(six))));
            }
            (Some(IpAddr::V4(host)), _) => {
                self.host4.push(format!("{host} . {key} : {}", value(four)));
            }
            (Some(IpAddr::V6(host)), Some(six)) => {
                self.host6.push(format!("{host} . {key} : {}", value(six)));
            }
            (Some(IpAddr::V6(_)), None) => {}
        }
    }

    fn declare(&self) -> String {
        let (port4, port6) = ("ipv4_addr . inet_service", "ipv6_addr . inet_service");
        let key = "inet_proto . inet_service";
        let sets = [
            (
                "map",
                "host4",
                format!("ipv4_addr . {key} : {port4}"),
                &self.host4,
            ),
            (
                "map",
                "host6",
                format!("ipv6_addr . {key} : {port6}"),
                &self.host6,
            ),
            ("map", "any4", format!("{key} : {port4}"), &self.any4),
            ("map", "any6", format!("{key} : {port6}"), &self.any6),
            (
                "set",
                "hairpin4",
                "ipv4_addr . ipv4_addr".to_owned(),
                &self.hairpin4,
            ),
            (
                "set",
                "hairpin6",
                "ipv6_addr . ipv6_addr".to_owned(),
                &self.hairpin6,
            ),
        ];
        let mut text = String::new();
        for (what, name, kind, elements) in sets {
            let _ = write!(text, "  {what} {name} {{ type {kind}; ");
            if !elements.is_empty() {
                let _ = write!(text, "elements = {{ {} }}; ", elements.join(", "));
            }
            text += "}\n";
        }
        text
    }
}

fn chains(bridge: &str, settings: &Settings) -> String {
    let subnet = settings.subnet;
    let leave6 = settings.prefix6.map_or_else(String::new, |prefix| {
        let network = prefix.network();
        format!(
            "    ip6 saddr {network} ip6 daddr != ff00::/8 oifname != \"{bridge}\" masquerade\n"
        )
    });
    // guard: route_localnet, which ports of 127.0.0.1 need, must not open the host's loopback to
    // pods (CVE-2020-8558). redirects: pods reach each other by the host on purpose.
    format!(
        r#"  chain guard {{
    type filter hook prerouting priority raw;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain ports {{
    dnat ip to ip daddr . meta l4proto . th dport map @host4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @host6
    fib daddr type local dnat ip to meta l4proto . th dport map @any4
    ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain arriving {{
    type nat hook prerouting priority dstnat;
    meta l4proto {{ tcp, udp, sctp }} jump ports
  }}
  chain local {{
    type nat hook output priority -100;
    meta l4proto {{ tcp, udp, sctp }} jump ports
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat;
    ip saddr . ip daddr @hairpin4 masquerade
    ip6 saddr . ip6 daddr @hairpin6 masquerade
    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
    ip saddr {subnet} ip daddr != 224.0.0.0/4 oifname != "{bridge}" masquerade
{leave6}  }}
  chain forward {{
    type filter hook forward priority filter;
    iifname "{bridge}" ct state invalid drop
    oifname "{bridge}" ct state invalid drop
    iifname "{bridge}" accept
    oifname "{bridge}" accept
  }}
  chain redirects {{
    type filter hook output priority filter;
    oifname "{bridge}" icmp type redirect drop
    oifname "{bridge}" icmpv6 type nd-redirect drop
  }}
"#
    )
}

/// Carries a transaction out, and lists what chains there are, each with its hook and policy.
pub async fn apply_and_list(text: &str) -> Result<String> {
    apply(&format!("{text}list chains\n")).await
}

/// Carries a transaction out; gives what nft prints.
pub async fn apply(text: &str) -> Result<String> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("run nft (Debian's package nftables)")?;
    let mut stdin = nft.stdin.take().expect("stdin is piped");
    // An nft that fails early closes its end; its message below says why.
    let _ = stdin.write_all(text.as_bytes()).await;
    drop(stdin);
    let output = nft.wait_with_output().await.context("wait for nft")?;
    let message = String::from_utf8_lossy(&output.stderr);
    let first = message.lines().next().unwrap_or_default();
    ensure!(output.status.success(), "nft: {first} ({})", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether nft can be run.
pub fn available() -> bool {
    std::env::split_paths(&search_path()).any(|directory| directory.join("nft").is_file())
}

/// PATH with the directories of administrators' programs, which a service's PATH may lack.
pub fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/sbin:/sbin");
    path
}

#[cfg(test)]
mod tests {
    use super::super::leases::{Leases, Protocol};
    use super::super::subnet::Prefix6;
    use super::*;

    fn text(ports: Vec<Port>, six: bool) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut leases = Leases::open(directory.path()).unwrap();
        let subnet = "10.1.0.0/24".parse().unwrap();
        leases.take("a", subnet, ports).unwrap();
        let settings = Settings::new("rrun0", subnet, six.then(|| Prefix6::new([0; 5])));
        replace(&settings, leases.all())
    }

    fn port(host_ip: Option<&str>) -> Port {
        Port {
            protocol: Protocol::Udp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 5353,
            container_port: 53,
        }
    }

    #[test]
    fn a_pod_without_ports_is_in_no_set() {
        let text = text(Vec::new(), true);
        assert!(!text.contains("elements"), "{text}");
        assert!(text.contains("ip saddr 10.1.0.0/24"));
        assert!(text.contains("ip6 saddr fd00::/64"));
    }

    #[test]
    fn a_port_of_all_addresses_is_there_for_both_families() {
        let text = text(vec![port(None)], true);
        assert!(
            text.contains("elements = { udp . 5353 : 10.1.0.2 . 53 }"),
            "{text}"
        );
        assert!(
            text.contains("elements = { udp . 5353 : fd00::a01:2 . 53 }"),
            "{text}"
        );
        assert!(
            text.contains("elements = { 10.1.0.2 . 10.1.0.2 }"),
            "{text}"
        );
    }

    #[test]
    fn a_port_of_one_address_is_there_for_that_one() {
        let text = text(vec![port(Some("192.0.2.1"))], true);
        assert!(
            text.contains("{ 192.0.2.1 . udp . 5353 : 10.1.0.2 . 53 }"),
            "{text}"
        );
        assert_eq!(text.matches("5353").count(), 1);
    }

    #[test]
    fn without_ipv6_no_rule_speaks_of_its_subnet() {
        assert!(!text(vec![port(None)], false).contains("fd00"));
    }
}
