//! Garbage collection: what no image, container or running pull needs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use super::rootfs::RootfsRecord;
use super::{Index, Store};
use crate::error::FileContext;
use crate::{Digest, Result, files};

/// A broken-off download is kept this long, for a later pull to go on with.
const PARTIAL_AGE: Duration = Duration::from_hours(24);

impl Store {
    /// Deletes blobs and layers that nothing needs and returns the bytes given back. May run
    /// beside pulls.
    pub fn gc(&self) -> Result<u64> {
        self.collect(PARTIAL_AGE)
    }

    /// The same, broken-off downloads and what builds cached included.
    pub(super) fn gc_all(&self) -> Result<u64> {
        self.drop_cache_mounts()?;
        self.collect(Duration::ZERO)
    }

    /// Directories of `RUN --mount=type=cache` that no build uses. Locks stay: they are empty.
    fn drop_cache_mounts(&self) -> Result<()> {
        let dir = self.cache_mount_dir();
        if !dir.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let lock = entry.at("list", &dir)?.path();
            if lock.extension().is_none_or(|e| e != "lock") {
                continue;
            }
            let file = File::open(&lock).at("open", &lock)?;
            if file.try_lock().is_ok() {
                let name = lock.with_extension("");
                self.discard(&dir, |_, path| path == name)?;
            }
        }
        Ok(())
    }

    fn collect(&self, partial_age: Duration) -> Result<u64> {
        {
            let _lock = self.lock_index()?;
            let leased = self.leased()?;
            self.drop_dead_builds(&leased)?;
            let live = self.live(&leased)?;
            self.unmount_layers(&live, &leased)?;
            for dir in [self.blob_dir(), self.root.join("layers")] {
                self.discard(&dir, |name, _| !live.contains(name))?;
            }
            self.discard(&self.ingest_dir(), |name, path| {
                is_abandoned(name, path, &leased, partial_age)
            })?;
            self.discard(&self.root.join("build-cache"), |_, path| {
                let record = fs::read(path).ok();
                let record =
                    record.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
                let digest = record
                    .as_ref()
                    .and_then(|r| r["digest"].as_str()?.strip_prefix("sha256:"));
                digest.is_none_or(|hex| !live.contains(hex))
            })?;
            self.discard(&self.root.join("locks"), |name, path| {
                !leased.contains(name) && unlocked(path)
            })?;
        }
        self.empty_trash()
    }

    /// Digests of all that is needed. The caller holds the index lock.
    fn live(&self, leased: &HashSet<String>) -> Result<HashSet<String>> {
        let mut live = leased.clone();
        for record in &Index::load(self)?.records {
            live.extend(record.documents().map(|digest| digest.hex().to_owned()));
            // A damaged document must not take the layers with it: then nothing is collected.
            let (manifest, config) = self.manifest_of(record)?;
            for layer in manifest.layers_with(&config) {
                live.insert(layer.digest.hex().to_owned());
                live.insert(layer.chain_id.hex().to_owned());
            }
        }
        for record in self.rootfs_records()? {
            live.extend(record.layers.iter().map(|chain| chain.hex().to_owned()));
        }
        Ok(live)
    }

    /// Ends the mounts of layers that are garbage, and of those that no container stands on.
    fn unmount_layers(&self, live: &HashSet<String>, leased: &HashSet<String>) -> Result<()> {
        let records = self.rootfs_records()?;
        let stood_on: HashSet<&str> = records
            .iter()
            .flat_map(|record| record.layers.iter().map(Digest::hex))
            .collect();
        let dir = self.root.join("layers");
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let entry = entry.at("list", &dir)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !live.contains(&name) {
                Self::retire_layer(&entry.path())?;
            } else if !stood_on.contains(&*name) && !leased.contains(&name) {
                Self::rest_layer(&entry.path())?;
            }
        }
        Ok(())
    }

    /// What killed builds left, and records of commands whose layers nobody has.
    fn drop_dead_builds(&self, leased: &HashSet<String>) -> Result<()> {
        let mut dead = self.rootfs_records()?;
        dead.retain(|r| r.dir.starts_with(self.build_dir()) && !leased.contains(&r.key));
        // Before their directories go, else what they show would be deleted through them.
        dead.iter().try_for_each(RootfsRecord::unmount)?;
        self.discard(&self.build_dir(), |name, _| !leased.contains(name))?;
        for record in dead {
            files::remove_all(&self.rootfs_path(&record.key)?)?;
        }
        Ok(())
    }

    /// Renames what is garbage into the trash, so that the lock is held for renames only.
    fn discard(&self, dir: &Path, garbage: impl Fn(&str, &Path) -> bool) -> Result<()> {
        for entry in fs::read_dir(dir).at("list", dir)? {
            let entry = entry.at("list", dir)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if garbage(&name, &path) {
                let trash = self.root.join("trash").join(files::unique_name());
                match fs::rename(&path, &trash) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.at("discard", &path)?,
                }
            }
        }
        Ok(())
    }

    fn empty_trash(&self) -> Result<u64> {
        let dir = self.root.join("trash");
        let mut bytes = 0;
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            bytes += files::tree_usage(&path)?.bytes;
            files::remove_all(&path)?;
        }
        Ok(bytes)
    }
}

/// Names in `ingest` start with the digest of what is fetched or unpacked.
fn is_abandoned(name: &str, path: &Path, leased: &HashSet<String>, age: Duration) -> bool {
    let digest = name.split('.').next().unwrap_or_default();
    if leased.contains(digest) {
        return false;
    }
    let partial = Path::new(name).extension().is_some_and(|e| e == "partial");
    !partial
        || fs::metadata(path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed >= age))
}

fn unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}
