//! v1: `devices.deny` and `devices.allow`, with the fewest writes.

use super::rules::{Policy, letters};
use crate::{Error, Result};
use rrun_sys::fd::Used;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// The lines for a new cgroup, which starts as a copy of its parent's policy:
/// the reset to the default, then the exceptions. (file, lines).
pub fn lines(policy: &Policy) -> [(&'static str, Vec<String>); 2] {
    let exceptions = policy
        .exceptions
        .iter()
        .map(|(what, access)| format!("{what} {}", letters(*access)));
    let (reset, other) = if policy.allow {
        ("devices.allow", "devices.deny")
    } else {
        ("devices.deny", "devices.allow")
    };
    [(reset, vec!["a".into()]), (other, exceptions.collect())]
}

/// Writes them to the new cgroup `dir`. In a user namespace the controller cannot
/// be changed by anyone, and is left as it is (runc's rule).
pub fn execute(dir: &Path, policy: &Policy) -> Result<()> {
    let mut used = Used::default();
    for (name, lines) in lines(policy) {
        if lines.is_empty() {
            continue;
        }
        let path = dir.join(name);
        let result = OpenOptions::new().write(true).open(&path).and_then(|file| {
            let written = lines.iter().try_for_each(|line| put(&file, line));
            used.put(file.into());
            written
        });
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::PermissionDenied && super::unified::in_user_ns() => {
                return Ok(());
            }
            Err(e) => return Err(Error::file("write", path, e)),
        }
    }
    Ok(())
}

/// The kernel takes one rule in each write(2).
fn put(mut file: &File, line: &str) -> std::io::Result<()> {
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::policy;
    use super::*;

    #[test]
    fn reset_then_exceptions() {
        let policy = policy(
            r#"[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"b","major":8,"access":"r"},
                {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]"#,
        )
        .unwrap();
        let [(deny, reset), (allow, rules)] = lines(&policy);
        assert_eq!((deny, reset), ("devices.deny", vec!["a".to_owned()]));
        assert_eq!(
            (allow, rules),
            ("devices.allow", vec!["b 8:* r".into(), "c 1:3 rwm".into()])
        );
    }
}
