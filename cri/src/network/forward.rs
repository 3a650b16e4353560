//! Firewalls beside our table. A packet is forwarded when no chain of any table drops it, so that a
//! policy to drop, as Docker and ufw give iptables' chain FORWARD, takes the pods' packets too.
//!
//! That chain gets rules at its end, under our name, by the program iptables itself (which knows in
//! which of the kernel's two forms the chain is): whatever an administrator drops or rejects by a rule
//! stays so, and only what no rule spoke of is let through. Chains of other tables belong to programs
//! that tolerate no foreign rules (firewalld, a file of nft's): the log says what to put there.

use std::io::ErrorKind;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::rules;

/// What our rules are known by.
fn comment(bridge: &str) -> String {
    format!("rrun-cri {bridge}")
}

/// Pods may reach everything; what comes to them are answers, and what a host port or a Service leads
/// to them.
fn rules_of(bridge: &str) -> [Vec<String>; 3] {
    let rule = |matches: &str| {
        let words = matches.split(' ').map(str::to_owned);
        let name = ["-m", "comment", "--comment"].map(str::to_owned);
        words
            .chain(name)
            .chain([comment(bridge), "-j".to_owned(), "ACCEPT".to_owned()])
            .collect()
    };
    [
        rule(&format!("-i {bridge}")),
        rule(&format!(
            "-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED"
        )),
        rule(&format!("-o {bridge} -m conntrack --ctstate DNAT")),
    ]
}

/// A base chain that forwards and drops by policy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dropping {
    family: String,
    table: String,
    chain: String,
}

impl Dropping {
    /// The program whose chain it is.
    fn iptables(&self) -> Option<&'static str> {
        match (&*self.family, &*self.table, &*self.chain) {
            ("ip", "filter", "FORWARD") => Some("iptables"),
            ("ip6", "filter", "FORWARD") => Some("ip6tables"),
            _ => None,
        }
    }
}

/// Those of `nft list chains` that are not ours.
fn dropping(listing: &str) -> Vec<Dropping> {
    let (mut family, mut table, mut chain) = ("", "", "");
    let mut found = Vec::new();
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["table", of, name, "{", ..] => (family, table) = (of, name),
            ["chain", name, "{", ..] => chain = name,
            ["type", "filter", "hook", "forward", ..]
                if line.contains("policy drop;")
                    && matches!(family, "ip" | "ip6" | "inet")
                    && !table.starts_with("rrun") =>
            {
                found.push(Dropping {
                    family: family.to_owned(),
                    table: table.to_owned(),
                    chain: chain.to_owned(),
                });
            }
            _ => {}
        }
    }
    found
}

/// iptables' chain FORWARD is in the kernel in its old form.
fn has_legacy(names: &str) -> bool {
    std::fs::read_to_string(names).is_ok_and(|text| text.lines().any(|line| line == "filter"))
}

/// The programs whose chain FORWARD may drop; `listing` is of `nft list chains`.
fn programs(listing: &str) -> Vec<&'static str> {
    let mut all: Vec<_> = dropping(listing)
        .iter()
        .filter_map(Dropping::iptables)
        .collect();
    for (names, program) in [
        ("/proc/net/ip_tables_names", "iptables-legacy"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
    ] {
        if has_legacy(names) {
            all.push(program);
        }
    }
    all
}

/// Lets the bridge's packets through where iptables would drop them by policy.
pub async fn open(bridge: &str, listing: &str) -> Result<()> {
    for other in dropping(listing).iter().filter(|d| d.iptables().is_none()) {
        let Dropping {
            family,
            table,
            chain,
        } = other;
        tracing::warn!(
            "the chain {chain} of table {family} {table} drops by policy, so pods reach nothing beyond \
             this machine: it needs the rules iifname \"{bridge}\" accept; oifname \"{bridge}\" ct \
             state established,related accept; oifname \"{bridge}\" ct status dnat accept"
        );
    }
    for program in programs(listing) {
        let Some(policy) = run(program, &["-S".into(), "FORWARD".into()]).await? else {
            tracing::warn!(
                "{program} is not installed, but a chain FORWARD of it is there: if that drops by \
                 policy, pods reach nothing beyond this machine"
            );
            continue;
        };
        if !String::from_utf8_lossy(&policy.stdout).contains("-P FORWARD DROP") {
            continue;
        }
        for rule in rules_of(bridge) {
            let with =
                |action: &str| [&[action.to_owned(), "FORWARD".to_owned()][..], &rule].concat();
            let there = run(program, &with("-C")).await?;
            if there.is_some_and(|output| output.status.success()) {
                continue;
            }
            if let Some(output) = run(program, &with("-A")).await? {
                expect(program, output)?;
            }
        }
    }
    Ok(())
}

/// Takes the rules away again.
pub async fn close(bridge: &str, listing: &str) -> Result<()> {
    let mut programs = programs(listing);
    for (family, program) in [("ip", "iptables"), ("ip6", "ip6tables")] {
        // The policy may have changed since.
        let table = format!("table {family} filter {{");
        if listing.lines().any(|line| line == table) && !programs.contains(&program) {
            programs.push(program);
        }
    }
    for program in programs {
        // Where it is not installed, no rule of ours came by it.
        let Some(found) = run(program, &["-S".into(), "FORWARD".into()]).await? else {
            continue;
        };
        let mark = format!("\"{}\"", comment(bridge));
        if !String::from_utf8_lossy(&found.stdout).contains(&mark) {
            continue;
        }
        for rule in rules_of(bridge) {
            let words = [&["-D".to_owned(), "FORWARD".to_owned()][..], &rule].concat();
            // One that an administrator took away is gone as well.
            let _ = run(program, &words).await?;
        }
    }
    Ok(())
}

/// Nothing where the program is not installed.
async fn run(program: &str, words: &[String]) -> Result<Option<Output>> {
    let output = Command::new(program)
        .arg("-w")
        .args(words)
        .env("PATH", rules::search_path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        output => output.with_context(|| format!("run {program}")).map(Some),
    }
}

fn expect(program: &str, output: Output) -> Result<()> {
    let message = String::from_utf8_lossy(&output.stderr);
    let first = message.lines().next().unwrap_or_default();
    ensure!(
        output.status.success(),
        "{program}: {first} ({})",
        output.status
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_not_installed_is_no_error() {
        assert!(run("no-such-iptables", &[]).await.unwrap().is_none());
        assert!(run("false", &[]).await.unwrap().is_some());
    }

    const LISTING: &str = "\
table ip filter {
	chain DOCKER-USER {
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
}
table ip6 filter {
	chain FORWARD {
		type filter hook forward priority filter; policy accept;
	}
}
table inet rrun_net_rrun0 {
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
table inet mine {
	chain input {
		type filter hook input priority filter; policy drop;
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
";

    #[test]
    fn chains_that_forward_and_drop_are_found_but_for_ours() {
        let found = dropping(LISTING);
        let names: Vec<_> = found
            .iter()
            .map(|d| format!("{} {} {}", d.family, d.table, d.chain))
            .collect();
        assert_eq!(names, ["ip filter FORWARD", "inet mine forward"]);
        let programs: Vec<_> = found.iter().map(Dropping::iptables).collect();
        assert_eq!(programs, [Some("iptables"), None]);
    }

    #[test]
    fn the_rules_bear_our_name_and_let_no_stranger_in() {
        let [out, back, ports] = rules_of("rrun0").map(|words| words.join(" "));
        assert_eq!(
            out,
            "-i rrun0 -m comment --comment rrun-cri rrun0 -j ACCEPT"
        );
        assert!(back.contains("--ctstate RELATED,ESTABLISHED") && ports.contains("--ctstate DNAT"));
    }
}
