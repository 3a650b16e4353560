//! What a directory takes on disk.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Bytes allocated and inodes, as `du` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Files, directories, links and nodes.
    pub inodes: u64,
}

/// Usage of a directory; one that is gone, or goes while it is read, takes nothing.
pub fn usage(dir: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut todo: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("stat {}", path.display()))?,
        };
        if meta.nlink() > 1 && !meta.is_dir() && !linked.insert((meta.dev(), meta.ino())) {
            continue;
        }
        usage.bytes += meta.blocks() * 512;
        usage.inodes += 1;
        if meta.is_dir() {
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other.with_context(|| format!("list {}", path.display()))?,
            };
            for entry in entries {
                todo.push(
                    entry
                        .with_context(|| format!("list {}", path.display()))?
                        .path(),
                );
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_a_missing_directory_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 10_000]).unwrap();
        let one = usage(dir.path()).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(usage(dir.path()).unwrap(), one);
        assert_eq!(one.inodes, 2);
        assert!(one.bytes >= 10_000);
        assert_eq!(usage(&dir.path().join("gone")).unwrap(), Usage::default());
    }
}
