//! The rules of `linux.resources.devices`, applied in order to a model of what
//! the kernel's v1 controller does, so that only the outcome has to be written,
//! and v2 behaves as v1 does.

use crate::{Error, Result, warning};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::collections::BTreeMap;
use std::fmt;

/// May read.
pub const READ: u8 = 2;
/// May write.
pub const WRITE: u8 = 4;
/// May make a node.
pub const MKNOD: u8 = 1;
/// All three.
pub const ALL: u8 = READ | WRITE | MKNOD;

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Block.
    Block,
    /// Character.
    Char,
}

/// Which devices an exception is about; `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// Kind.
    pub kind: Kind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// Access as v1 writes it: letters of `rwm`.
pub fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .into_iter()
        .filter_map(|(bit, letter)| (access & bit != 0).then_some(letter))
        .collect()
}

/// A policy: a default, and exceptions from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// What happens to a device without an exception.
    pub allow: bool,
    /// Accesses that are the other way round.
    pub exceptions: BTreeMap<Match, u8>,
}

/// (kind, major, minor, access) of what every container may use: making any node
/// (the mount options forbid use), null, zero, full, random, urandom, tty,
/// pseudo terminals, ptmx, tun (runtime-spec config-linux.md#default-devices,
/// and runc's list).
const DEFAULTS: [(Kind, Option<u32>, Option<u32>, u8); 11] = [
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    (Kind::Char, Some(1), Some(3), ALL),
    (Kind::Char, Some(1), Some(8), ALL),
    (Kind::Char, Some(1), Some(7), ALL),
    (Kind::Char, Some(5), Some(0), ALL),
    (Kind::Char, Some(1), Some(5), ALL),
    (Kind::Char, Some(1), Some(9), ALL),
    (Kind::Char, Some(136), None, ALL),
    (Kind::Char, Some(5), Some(2), ALL),
    (Kind::Char, Some(10), Some(200), ALL),
];

impl Policy {
    /// From the configuration, with the default devices after it.
    pub fn from_spec(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut policy = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            policy.rule(rule, index)?;
        }
        for (kind, major, minor, access) in DEFAULTS {
            policy.apply(true, Match { kind, major, minor }, access)?;
        }
        Ok(policy)
    }

    fn rule(&mut self, rule: &LinuxDeviceCgroup, index: usize) -> Result<()> {
        let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
        let text = rule.access().as_deref().unwrap_or_default();
        if text.is_empty() {
            let why = "device access cannot be empty; use letters of rwm";
            return Err(Error::config(field("access"), why));
        }
        let kind = match rule.typ() {
            // Whatever it says of numbers and access, it is about all of them.
            None | Some(LinuxDeviceType::A) => {
                *self = Self {
                    allow: rule.allow(),
                    exceptions: BTreeMap::new(),
                };
                return Ok(());
            }
            Some(LinuxDeviceType::B) => Kind::Block,
            Some(LinuxDeviceType::C) => Kind::Char,
            Some(other) => {
                let why = format!("invalid cgroup device type {other:?}; use a, b or c");
                return Err(Error::config(field("type"), why));
            }
        };
        let access = access(text);
        let number = |name: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n)
                .map(Some)
                .map_err(|_| Error::config(field(name), format!("{n} is no device number"))),
        };
        let major = number("major", rule.major())?;
        let minor = number("minor", rule.minor())?;
        self.apply(rule.allow(), Match { kind, major, minor }, access)
    }

    /// One rule about `what`.
    fn apply(&mut self, allow: bool, what: Match, access: u8) -> Result<()> {
        if allow == self.allow {
            return self.take_back(what, access);
        }
        *self.exceptions.entry(what).or_default() |= access;
        Ok(())
    }

    /// Removes an exception. The kernel's v1 controller silently ignores taking a
    /// single device out of a wildcard: refuse it, so that nobody trusts in it.
    fn take_back(&mut self, what: Match, access: u8) -> Result<()> {
        for wide in [
            Match {
                major: None,
                ..what
            },
            Match {
                minor: None,
                ..what
            },
            Match {
                major: None,
                minor: None,
                ..what
            },
        ] {
            let held = self.exceptions.get(&wide).copied().unwrap_or(0);
            if wide != what && held & access != 0 {
                return Err(Error::config(
                    "linux.resources.devices",
                    format!(
                        "cannot make an exception for {what} {} within {wide} {}: the kernel does not support it",
                        letters(access),
                        letters(held)
                    ),
                ));
            }
        }
        if let Some(held) = self.exceptions.get_mut(&what) {
            *held &= !access;
            if *held == 0 {
                self.exceptions.remove(&what);
            }
        }
        Ok(())
    }

    /// Whether a container could do without this policy being enforced (when the
    /// kernel refuses the program): everything that it names is allowed in full.
    pub fn is_lax(rules: &[LinuxDeviceCgroup]) -> bool {
        rules
            .iter()
            .all(|rule| rule.allow() && access(rule.access().as_deref().unwrap_or_default()) == ALL)
    }
}

/// runc takes no notice of letters that it does not know; tests of its depend on it.
fn access(text: &str) -> u8 {
    text.chars().fold(0, |bits, letter| match letter {
        'r' => bits | READ,
        'w' => bits | WRITE,
        'm' => bits | MKNOD,
        other => {
            warning!(
                "linux.resources.devices: unknown device access {other:?} in {text:?} ignored"
            );
            bits
        }
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A policy from JSON rules, without the default devices.
    pub fn policy(json: &str) -> Result<Policy> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        let mut policy = Policy::default();
        for (index, rule) in rules.iter().enumerate() {
            policy.rule(rule, index)?;
        }
        Ok(policy)
    }

    #[test]
    fn wildcard_resets_everything_before_it() {
        let policy = policy(
            r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
                {"allow":true,"access":"rwm"}]"#,
        )
        .unwrap();
        assert_eq!(
            policy,
            Policy {
                allow: true,
                exceptions: BTreeMap::new()
            }
        );
    }

    #[test]
    fn accesses_of_one_device_merge_and_subtract() {
        let policy = policy(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":9,"minor":1,"access":"rw"},
                {"allow":true,"type":"c","major":9,"minor":1,"access":"m"},
                {"allow":false,"type":"c","major":9,"minor":1,"access":"w"}]"#,
        )
        .unwrap();
        let entries: Vec<_> = policy
            .exceptions
            .iter()
            .map(|(m, a)| format!("{m} {}", letters(*a)))
            .collect();
        assert_eq!(entries, ["c 9:1 rm"]);
    }

    #[test]
    fn hole_in_a_wildcard_is_refused() {
        let error = policy(
            r#"[{"allow":true,"type":"c","major":9,"access":"rw"},
                {"allow":false,"type":"c","major":9,"minor":1,"access":"w"}]"#,
        )
        .unwrap_err();
        assert!(
            error.chain().contains("within c 9:* rw"),
            "{}",
            error.chain()
        );
    }

    #[test]
    fn access_must_be_there_and_unknown_letters_give_nothing() {
        assert!(policy(r#"[{"allow":true,"type":"c"}]"#).is_err());
        let known = policy(r#"[{"allow":true,"type":"c","access":"rx"}]"#).unwrap();
        assert_eq!(known.exceptions.into_values().collect::<Vec<_>>(), [READ]);
    }
}
