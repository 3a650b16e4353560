//! Making, listing and removing cgroup directories.

use super::freezer::gone;
use super::write::get;
use crate::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// EOPNOTSUPP: `cgroup.procs` of a threaded cgroup cannot be read.
const EOPNOTSUPP: i32 = 95;
/// Waits before a busy directory is given up: 1, 2, 4 … 512 ms.
const BUSY_ROUNDS: u32 = 10;

/// Makes `dir` and the parents it lacks, each mode 0755. Returns what was made, the
/// highest first; empty when it was there.
pub fn make(dir: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(vec![dir.to_owned()]),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Vec::new()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let Some(parent) = dir.parent() else {
                return Err(Error::file("mkdir", dir, e));
            };
            let mut made = make(parent)?;
            made.extend(make(dir)?);
            Ok(made)
        }
        Err(e) => Err(Error::file("mkdir", dir, e)),
    }
}

/// Process ids in `dir` itself.
pub fn pids(dir: &Path) -> Result<Vec<i32>> {
    let text = match get(dir, "cgroup.procs") {
        Err(e) if e.raw_os_error() == Some(EOPNOTSUPP) => get(dir, "cgroup.threads"),
        other => other,
    };
    let text = text.map_err(|e| Error::file("read", dir.join("cgroup.procs"), e))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Process ids in `dir` and below it. A child that goes away meanwhile is no error.
pub fn all_pids(dir: &Path) -> Result<Vec<i32>> {
    let mut found = pids(dir)?;
    for child in children(dir) {
        match all_pids(&child) {
            Ok(pids) => found.extend(pids),
            Err(Error::File { source, .. }) if gone(&source) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Directories below `dir`; none when it cannot be read.
pub fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes `dir` with what is below it. What is not there is no error; what is busy
/// with processes that are just going is waited for, about a second in all.
pub fn remove(dir: &Path) -> Result<()> {
    if rmdir(dir).is_ok() {
        return Ok(());
    }
    // A read-only cgroup file system says so even of what is not there (runc#4518).
    if let Err(e) = std::fs::symlink_metadata(dir)
        && gone(&e)
    {
        return Ok(());
    }
    for child in children(dir) {
        remove(&child)?;
    }
    let mut delay = Duration::from_millis(1);
    for _ in 0..BUSY_ROUNDS {
        match rmdir(dir) {
            Err(e) if e.kind() == ErrorKind::ResourceBusy => sleep(delay),
            other => return other.map_err(|e| Error::file("rmdir", dir, e)),
        }
        delay *= 2;
    }
    rmdir(dir).map_err(|e| Error::file("rmdir", dir, e))
}

fn rmdir(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir(dir) {
        Err(e) if gone(&e) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_says_what_it_made_and_remove_is_idempotent() {
        let top = std::env::temp_dir().join(format!("rrun-tree-{}", std::process::id()));
        std::fs::create_dir(&top).unwrap();
        let dir = top.join("a/b");
        assert_eq!(make(&dir).unwrap(), [top.join("a"), dir.clone()]);
        assert_eq!(make(&dir).unwrap(), Vec::<PathBuf>::new());
        remove(&top).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
    }
}
