//! The device rules as properties of a unit: on v1 systemd writes its own idea of them on every
//! reload, which would be that everything is allowed.

use super::dbus::Value;
use crate::cgroup::devices::rules::{Kind, Match, Policy, letters};

/// Where the kernel names the drivers of major numbers.
const MAJORS: &str = "/proc/devices";

/// `DevicePolicy` and `DeviceAllow` (systemd.resource-control(5)). A policy that allows by
/// default has exceptions that systemd cannot tell: it is left to the files.
pub fn of(policy: &Policy) -> Vec<(&'static str, Value)> {
    if policy.allow {
        return vec![("DevicePolicy", Value::Text("auto".into()))];
    }
    let majors = std::fs::read_to_string(MAJORS).unwrap_or_default();
    let mut list = Vec::new();
    for (what, access) in &policy.exceptions {
        let access = letters(*access);
        // What systemd has no words for the file alone has, until the next reload.
        if let Some(name) = name(*what, &majors).filter(|_| !access.is_empty()) {
            list.push((name, access));
        }
    }
    vec![
        ("DevicePolicy", Value::Text("strict".into())),
        ("DeviceAllow", Value::Pairs(list)),
    ]
}

fn name(what: Match, majors: &str) -> Option<String> {
    let kind = match what.kind {
        Kind::Block => "block",
        Kind::Char => "char",
    };
    match (what.major, what.minor) {
        (None, None) => Some(format!("{kind}-*")),
        (Some(major), None) => driver(what.kind, major, majors).map(|d| format!("{kind}-{d}")),
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (None, Some(_)) => None,
    }
}

/// The driver of `major` in the text of /proc/devices.
fn driver(kind: Kind, major: u32, majors: &str) -> Option<&str> {
    let block = majors.find("Block devices:").unwrap_or(majors.len());
    let part = match kind {
        Kind::Char => &majors[..block],
        Kind::Block => &majors[block..],
    };
    part.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_matches() {
        let majors = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  1 ramdisk\n";
        let named = |kind, major, minor| name(Match { kind, major, minor }, majors);
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(named(Kind::Char, None, None), is("char-*"));
        assert_eq!(named(Kind::Char, Some(136), None), is("char-pts"));
        assert_eq!(named(Kind::Block, Some(1), None), is("block-ramdisk"));
        assert_eq!(named(Kind::Char, Some(1), Some(3)), is("/dev/char/1:3"));
        assert_eq!(named(Kind::Block, Some(136), None), None);
        assert_eq!(named(Kind::Block, None, Some(3)), None);
    }
}
