//! `/proc/self/mountinfo`, of which the shim needs where cgroups are and what is on a rootfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path in its file system that is mounted.
    pub root: String,
    /// Where.
    pub point: PathBuf,
    /// Kind of file system.
    pub kind: String,
    /// Options of the file system, separated by commas.
    pub options: String,
}

/// All mounts of this mount namespace, in order.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter_map(parse)
        .collect())
}

/// Mounts at or below a directory, the last mounted first.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut points: Vec<_> = read()?
        .into_iter()
        .map(|m| m.point)
        .filter(|point| point.starts_with(dir))
        .collect();
    points.reverse();
    Ok(points)
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let options = after.nth(1).unwrap_or("").to_owned();
    Some(Mount {
        root: unescape(root),
        point: PathBuf::from(unescape(point)),
        kind,
        options,
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        if let Some(byte) = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            out.push(char::from(byte));
            out.push_str(&part[3..]);
        } else {
            out.push('\\');
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes() {
        let line = "36 35 98:0 /a /mnt/a\\040b rw,noatime shared:1 master:2 - cgroup cgroup rw,cpu";
        let mount = parse(line).unwrap();
        assert_eq!(mount.root, "/a");
        assert_eq!(mount.point, PathBuf::from("/mnt/a b"));
        assert_eq!(
            (mount.kind.as_str(), mount.options.as_str()),
            ("cgroup", "rw,cpu")
        );
    }
}
