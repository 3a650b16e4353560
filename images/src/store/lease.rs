//! Leases: what a running pull or import needs, kept from garbage collection while it runs.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::PathBuf;

use super::Store;
use crate::error::FileContext;
use crate::{Digest, Result, files};

/// Protects digests of blobs and chains until it is dropped. The kernel drops the lock of a
/// process that is killed, and the next collection removes the file.
#[derive(Debug)]
pub(crate) struct Lease {
    store: Store,
    path: PathBuf,
    file: File,
}

impl Lease {
    pub fn new(store: &Store) -> Result<Self> {
        let _lock = store.lock_index()?;
        let path = store.root.join("leases").join(files::unique_name());
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(&path)
            .at("create", &path)?;
        file.lock().at("lock", &path)?;
        Ok(Self {
            store: store.clone(),
            path,
            file,
        })
    }

    /// A fresh name in the ingest directory that collection leaves alone.
    pub fn temp(&mut self) -> Result<PathBuf> {
        let name = self.reserve()?;
        Ok(self.store.ingest_dir().join(name))
    }

    /// A fresh name that collection knows as ours.
    pub fn reserve(&mut self) -> Result<String> {
        let name = files::unique_name();
        let _lock = self.store.lock_index()?;
        self.file
            .write_all(format!("{name}\n").as_bytes())
            .at("write", &self.path)?;
        Ok(name)
    }

    /// From here on these are not garbage.
    pub fn add<'a>(&mut self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let mut text = String::new();
        for digest in digests {
            text.push_str(digest.hex());
            text.push('\n');
        }
        let _lock = self.store.lock_index()?;
        self.file.write_all(text.as_bytes()).at("write", &self.path)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// True where a process ended without giving up its lease.
    pub(super) fn has_stale_lease(&self) -> Result<bool> {
        let dir = self.root.join("leases");
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            // Under the index lock a lease is always locked by its owner, or stale.
            let _lock = self.lock_index()?;
            if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The digests that running pulls need. The caller holds the index lock.
    pub(super) fn leased(&self) -> Result<HashSet<String>> {
        let dir = self.root.join("leases");
        let mut leased = HashSet::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            let Ok(file) = File::open(&path) else {
                continue;
            };
            match file.try_lock() {
                Ok(()) => files::remove_all(&path)?,
                Err(TryLockError::WouldBlock) => {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    leased.extend(text.lines().map(str::to_owned));
                }
                Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
        }
        Ok(leased)
    }
}
