//! What a container stands on: the image's layers and a writable one of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Store, fuse, quota};
use crate::error::FileContext;
use crate::{Digest, Error, Image, ImageId, Result, files};

const FORMAT_VERSION: u32 = 1;
pub(super) const NO_SUCH_KEY: &str = "the store has none of that key";

/// The directories of an overlay mount. Nothing is mounted: `rrun` does that inside the
/// container's mount namespace (see ARCHITECTURE.md, Rootfs).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OverlayRootfs {
    /// Read-only layers, the topmost first, as overlayfs wants them.
    pub lower: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// overlayfs' own directory, on the file system of `upper`.
    pub work: PathBuf,
    /// True where the layers carry `user.overlay.*` attributes instead of `trusted.overlay.*`.
    pub user_xattr: bool,
}

impl OverlayRootfs {
    /// Mount options for type `overlay`: `lowerdir=…`, `upperdir=…`, `workdir=…`.
    pub fn mount_options(&self) -> Vec<String> {
        let lower: Vec<String> = self.lower.iter().map(|path| escape(path)).collect();
        let mut options = vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", escape(&self.upper)),
            format!("workdir={}", escape(&self.work)),
        ];
        if self.user_xattr {
            options.push("userxattr".to_owned());
        }
        options
    }
}

/// overlayfs splits at `:` and `,` unless they are escaped.
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// `rootfs/<key>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootfsRecord {
    pub version: u32,
    pub key: String,
    pub image: ImageId,
    /// Chain ids, bottom layer first.
    pub layers: Vec<Digest>,
    pub dir: PathBuf,
    /// The quota's project, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<u32>,
    /// Where fuse-overlayfs has it mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<PathBuf>,
}

impl RootfsRecord {
    /// Ends the mount that it speaks of, where there is one.
    pub fn unmount(&self) -> Result<()> {
        self.mounted.as_deref().map_or(Ok(()), fuse::unmount)
    }
}

/// What a rootfs has beside its layers.
#[derive(Default)]
struct Wanted {
    /// See [`Store::rootfs_limited`].
    bytes: Option<u64>,
    /// See [`Store::rootfs_or_mount`].
    mounted: Option<PathBuf>,
}

impl Store {
    /// Prepares a writable rootfs of an image: makes `dir/upper` and `dir/work` and holds the
    /// image's layers until [`Store::release`] is called with the same key.
    ///
    /// `key` is the container's id; [`Error::RootfsExists`] where it is taken.
    pub fn rootfs(&self, image: &str, key: &str, dir: &Path) -> Result<OverlayRootfs> {
        self.rootfs_record(key, dir, Wanted::default(), || self.inspect(image))
    }

    /// The same with at most `bytes` to write: [`Error::Unsupported`] where the file system of
    /// `dir` has no project quotas (XFS, or ext4 with the feature `project`, mounted with
    /// `prjquota`). What is beyond fails with ENOSPC or EDQUOT in the container.
    pub fn rootfs_limited(
        &self,
        image: &str,
        key: &str,
        dir: &Path,
        bytes: u64,
    ) -> Result<OverlayRootfs> {
        let wanted = Wanted {
            bytes: Some(bytes),
            ..Wanted::default()
        };
        self.rootfs_record(key, dir, wanted, || self.inspect(image))
    }

    /// The same; in a store of fuse-overlayfs the rootfs is mounted on `at` instead, until
    /// [`Store::release`], and there is nothing that others would have to mount: `None`.
    pub(crate) fn rootfs_or_mount(
        &self,
        image: impl FnOnce() -> Result<Image>,
        key: &str,
        dir: &Path,
        at: &Path,
    ) -> Result<Option<OverlayRootfs>> {
        if !self.uses_fuse() {
            let wanted = Wanted::default();
            return self.rootfs_record(key, dir, wanted, image).map(Some);
        }
        let at = at.canonicalize().at("resolve", at)?;
        let wanted = Wanted {
            mounted: Some(at.clone()),
            ..Wanted::default()
        };
        let rootfs = self.rootfs_record(key, dir, wanted, image)?;
        let mounted = self.mount_by_fuse(&rootfs, &at, true);
        if mounted.is_err() {
            self.release(key)?;
        }
        mounted.map(|()| None)
    }

    fn rootfs_record(
        &self,
        key: &str,
        dir: &Path,
        wanted: Wanted,
        image: impl FnOnce() -> Result<Image>,
    ) -> Result<OverlayRootfs> {
        let path = self.rootfs_path(key)?;
        let _lock = self.lock_index()?;
        if path.exists() {
            return Err(Error::RootfsExists(key.to_owned()));
        }
        let image = image()?;
        let layers: Vec<Digest> = image
            .layers
            .iter()
            .map(|layer| layer.chain_id.clone())
            .collect();
        for chain in &layers {
            self.layer_meta(chain)?;
        }
        let dir = std::path::absolute(dir).at("resolve", dir)?;
        // What a container's root writes may be set-user-id too. A directory that its owner made
        // keeps the mode it was given.
        if !dir.exists() {
            files::create_private(&dir)?;
        }
        let bytes = wanted.bytes;
        let project = bytes.map(|_| self.free_project(key, &dir)).transpose()?;
        let record = RootfsRecord {
            version: FORMAT_VERSION,
            key: key.to_owned(),
            image: image.id,
            layers,
            dir,
            project,
            mounted: wanted.mounted,
        };
        // Not synced: after a power cut no container is left that could stand on the layers.
        files::write_atomic(
            &path,
            &serde_json::to_vec(&record).expect("the record is plain"),
        )?;
        let rootfs = self.overlay_of(&record);
        let stand = || self.stand_on(&record);
        let limited = |()| match (project, bytes) {
            (Some(project), Some(bytes)) => quota::limit(&rootfs, project, bytes),
            _ => Ok(()),
        };
        let made = stand().and_then(|()| make_upper(&rootfs)).and_then(limited);
        if made.is_err() {
            self.release(key)?;
        }
        made.map(|()| rootfs)
    }

    /// The rootfs prepared earlier for a key, or `None`.
    pub fn find_rootfs(&self, key: &str) -> Result<Option<OverlayRootfs>> {
        let path = self.rootfs_path(key)?;
        let Some(record) = read_record(&path)? else {
            return Ok(None);
        };
        self.stand_on(&record)?;
        let rootfs = self.overlay_of(&record);
        if let Some(at) = &record.mounted {
            self.keep_by_fuse(&rootfs, at)?;
        }
        Ok(Some(rootfs))
    }

    /// Makes all mounts again that the rootfs of these keys stand on, or of all keys, which a reboot
    /// ended: those of fuse-overlayfs and of erofs layers. A rootfs for which that fails keeps no other
    /// from it; those that failed come back with why.
    pub fn remount(&self, keys: &[String]) -> Result<Vec<(String, Error)>> {
        let all = || Ok(self.rootfs_records()?.into_iter().map(|r| r.key).collect());
        let keys: Vec<String> = if keys.is_empty() {
            all()?
        } else {
            keys.to_vec()
        };
        let found = |key: &String| {
            let none = || Error::document(format!("rootfs {key:?}"), NO_SUCH_KEY);
            self.find_rootfs(key)?.ok_or_else(none).map(drop)
        };
        let failed = |key: String| found(&key).err().map(|error| (key, error));
        Ok(keys.into_iter().filter_map(failed).collect())
    }

    /// Ends the mount of [`Store::rootfs_or_mount`], which until then may keep back what was written,
    /// so that the upper directory is as the kernel's overlayfs would have it.
    pub(crate) fn settle(&self, key: &str) -> Result<()> {
        match read_record(&self.rootfs_path(key)?)? {
            Some(record) if record.mounted.is_some() => {
                record.unmount()?;
                fuse::translate(&self.overlay_of(&record), Path::new(""))
            }
            _ => Ok(()),
        }
    }

    /// Ends a rootfs: deletes its `upper` and `work` and lets the layers go. A key that is not
    /// there is not an error. The container must be gone.
    pub fn release(&self, key: &str) -> Result<()> {
        let path = self.rootfs_path(key)?;
        let Some(record) = read_record(&path)? else {
            return files::remove_all(&path);
        };
        record.unmount()?;
        files::remove_all(&record.dir.join("upper"))?;
        files::remove_all(&record.dir.join("work"))?;
        if let Some(project) = record.project {
            quota::release(&record.dir, project);
        }
        let _ = fs::remove_dir(&record.dir);
        files::remove_all(&path)
    }

    /// Keys and image ids of all rootfs that are prepared.
    pub fn rootfs_users(&self) -> Result<Vec<(String, ImageId)>> {
        Ok(self
            .rootfs_records()?
            .into_iter()
            .map(|r| (r.key, r.image))
            .collect())
    }

    pub(super) fn rootfs_records(&self) -> Result<Vec<RootfsRecord>> {
        let dir = self.root.join("rootfs");
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            if path.extension().is_some_and(|e| e == "json") {
                records.extend(read_record(&path)?);
            }
        }
        Ok(records)
    }

    /// Lets the layers of a record be seen. From then on they are, since it names them.
    fn stand_on(&self, record: &RootfsRecord) -> Result<()> {
        record
            .layers
            .iter()
            .try_for_each(|chain| self.layer_fs(chain).map(drop))
    }

    fn overlay_of(&self, record: &RootfsRecord) -> OverlayRootfs {
        OverlayRootfs {
            lower: record
                .layers
                .iter()
                .rev()
                .map(|chain| self.layer_dir(chain).join("fs"))
                .collect(),
            upper: record.dir.join("upper"),
            work: record.dir.join("work"),
            user_xattr: self.privilege.is_rootless(),
        }
    }

    pub(super) fn rootfs_path(&self, key: &str) -> Result<PathBuf> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-+".contains(&b);
        if key.is_empty() || key.len() > 200 || key.starts_with('.') || !key.bytes().all(good) {
            let why = "a key has letters, digits and _ . - +, 200 at most, and no dot first";
            return Err(Error::document(format!("rootfs key {key:?}"), why));
        }
        Ok(self.root.join("rootfs").join(format!("{key}.json")))
    }
}

fn read_record(path: &Path) -> Result<Option<RootfsRecord>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.at("read", path)?,
    };
    match serde_json::from_slice::<RootfsRecord>(&bytes) {
        Ok(record) if record.version == FORMAT_VERSION => Ok(Some(record)),
        Ok(record) => {
            let why = format!("rootfs format {} is not known here", record.version);
            Err(Error::document(path.display().to_string(), why))
        }
        // Empty after a power cut, when its container is gone too.
        Err(_) if bytes.is_empty() => Ok(None),
        Err(error) => Err(Error::document(path.display().to_string(), error)),
    }
}

/// The container's `/` gets its mode and owner from the upper directory.
fn make_upper(rootfs: &OverlayRootfs) -> Result<()> {
    for path in [&rootfs.upper, &rootfs.work] {
        fs::create_dir_all(path).at("create", path)?;
    }
    let (mode, owner) = match rootfs.lower.first() {
        Some(top) => {
            let meta = fs::metadata(top).at("stat", top)?;
            (meta.mode() & 0o7777, Some((meta.uid(), meta.gid())))
        }
        None => (0o755, None),
    };
    if let Some((uid, gid)) = owner.filter(|_| rustix::process::geteuid().is_root()) {
        std::os::unix::fs::chown(&rootfs.upper, Some(uid), Some(gid)).at("chown", &rootfs.upper)?;
    }
    fs::set_permissions(&rootfs.upper, fs::Permissions::from_mode(mode)).at("chmod", &rootfs.upper)
}
