//! A layer as one erofs image, which is mounted on `<layer>/fs` when its files are needed.
//!
//! A mount that a killed process left is as good as one made now: it shows the same file. It goes when
//! collection finds that no container stands on the layer, and with the layer. The kernel mounts a
//! file since 6.12; before that, and where the store itself is on an overlay (two may lie on each
//! other, and the container's is one), a loop device is in between, which goes with its mount.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rrun_sys::mount::{FsContext, attach, attr, detach};
use rrun_sys::{loopdev, verity};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{LayerTree, Snapshotter};
use crate::error::FileContext;
use crate::store::LayerMeta;
use crate::unpack::Written;
use crate::{Digest, Error, Result, digest_reader, erofs, files};

const NAME: &str = "layer.erofs";
/// `layer.json` of a layer that older programs do not know.
const FORMAT_VERSION: u32 = 2;
/// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
const OVERLAYFS: i64 = 0x794c_7630;
/// A value of fsconfig(2) has at most 255 bytes.
const VALUE_LIMIT: usize = 255;

/// What is noted of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Of the file.
    pub digest: Digest,
    /// The digest of fs-verity (SHA-256) where it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<Digest>,
}

pub(super) struct Erofs {
    /// A file system without fs-verity is an error.
    pub must: bool,
}

pub(super) fn is_image(dir: &Path) -> bool {
    dir.join(NAME).exists()
}

impl Snapshotter for Erofs {
    fn keeps_tree(&self) -> bool {
        false
    }

    fn seal(
        &self,
        staged: &Path,
        written: Written,
        below: &[PathBuf],
        chain: &Digest,
        meta: &mut LayerMeta,
    ) -> Result<()> {
        written.finish_unsynced(below)?;
        let (tree, path) = (staged.join("fs"), staged.join(NAME));
        let digest = write_image(&tree, &path, chain)?;
        let verity = self.protect(&path)?;
        files::remove_all(&tree)?;
        fs::create_dir(&tree).at("create", &tree)?;
        // The file is counted beside it.
        let mount_point = files::tree_usage(&tree)?;
        (meta.bytes, meta.inodes) = (mount_point.bytes, mount_point.inodes);
        meta.version = FORMAT_VERSION;
        meta.erofs = Some(Image { digest, verity });
        Ok(())
    }

    fn ready(&self, dir: &Path) -> Result<LayerTree> {
        let path = dir.join("fs");
        // Whoever unmounts wants this lock alone.
        let held = held(dir)?;
        held.lock_shared().at("lock", dir)?;
        if !is_mounted(dir)? {
            let image = dir.join(NAME);
            let file = File::open(&image).at("open", &image)?;
            let meta = crate::Store::layer_meta_at(dir)?;
            if let Some(why) = unlike(&file, &image, &meta)? {
                let why = format!("{why}: see rrun-image check --repair");
                return Err(Error::document(image.display().to_string(), why));
            }
            mount(&file, &image, &path)?;
        }
        Ok(LayerTree {
            path,
            _held: Some(held),
        })
    }

    fn retire(&self, dir: &Path, even_held: bool) -> Result<()> {
        let Ok(lock) = held(dir) else { return Ok(()) };
        if !even_held && lock.try_lock().is_err() {
            return Ok(());
        }
        // Two may have mounted it at the same time.
        while is_mounted(dir)? {
            let path = dir.join("fs");
            detach(&path).map_err(|error| failed("unmount", &path, &error))?;
        }
        Ok(())
    }

    fn check(&self, dir: &Path, meta: &LayerMeta) -> Result<Option<String>> {
        let (path, Some(image)) = (dir.join(NAME), &meta.erofs) else {
            return Ok(Some("its note says that it is no erofs image".to_owned()));
        };
        let file = File::open(&path).at("open", &path)?;
        if let Some(why) = unlike(&file, &path, meta)? {
            return Ok(Some(why));
        }
        // With fs-verity this fails where the disk gives other bytes.
        Ok(match digest_reader(file) {
            Err(error) => Some(format!("read {NAME}: {error}")),
            Ok((got, _)) if got != image.digest => {
                Some(format!("{NAME} has digest {got}, it was {}", image.digest))
            }
            Ok(_) => None,
        })
    }
}

impl Erofs {
    /// Turns fs-verity on, and gives its digest; `None` where there is none.
    fn protect(&self, path: &Path) -> Result<Option<Digest>> {
        let file = File::open(path).at("open", path)?;
        let on = verity::enable(file.as_fd()).and_then(|()| verity::measure(file.as_fd()));
        match on {
            Ok(digest) => Ok(Some(from_bytes(digest)?)),
            Err(error) if verity::is_missing(&error) && !self.must => {
                tracing::debug!("{}: no fs-verity here: {error}", path.display());
                Ok(None)
            }
            Err(error) if verity::is_missing(&error) => Err(Error::unsupported(
                format!("snapshotter erofs-verity in {}", path.display()),
                format!("take a file system with fs-verity (ext4 with -O verity, btrfs): {error}"),
            )),
            Err(error) => Err(failed("turn fs-verity on for", path, &error)),
        }
    }
}

fn from_bytes(bytes: [u8; 32]) -> Result<Digest> {
    use std::fmt::Write;
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    Digest::from_hex(&hex)
}

/// The image of a tree, durable. Its id is the first half of the chain's.
fn write_image(tree: &Path, path: &Path, chain: &Digest) -> Result<Digest> {
    let mut id = [0; 16];
    for (n, byte) in id.iter_mut().enumerate() {
        let digits = &chain.hex()[2 * n..2 * n + 2];
        *byte = u8::from_str_radix(digits, 16).expect("a digest is hexadecimal");
    }
    let file = File::create_new(path).at("create", path)?;
    let digest = erofs::encode(tree, &file, id).at("write", path)?;
    file.sync_all().at("sync", path)?;
    Ok(digest)
}

/// The file whose lock says that the layer's files are being used.
fn held(dir: &Path) -> Result<File> {
    let path = dir.join("layer.json");
    File::open(&path).at("open", &path)
}

/// True where something is mounted on `fs`.
fn is_mounted(dir: &Path) -> Result<bool> {
    let device = |path: &Path| fs::metadata(path).at("stat", path).map(|meta| meta.dev());
    Ok(device(dir)? != device(&dir.join("fs"))?)
}

/// What fs-verity says against an image, before anything of it is believed.
fn unlike(file: &File, path: &Path, meta: &LayerMeta) -> Result<Option<String>> {
    let wanted = meta.erofs.as_ref().and_then(|image| image.verity.as_ref());
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    match verity::measure(file.as_fd()) {
        Ok(got) => {
            let got = from_bytes(got)?;
            Ok((got != *wanted)
                .then(|| format!("{NAME} has fs-verity digest {got}, it was {wanted}")))
        }
        // Another file under its name.
        Err(error) if error.is(Errno::NODATA.raw_os_error()) || verity::is_missing(&error) => Ok(
            Some(format!("{NAME} had fs-verity on, and has not: {error}")),
        ),
        Err(error) => Err(failed("measure", path, &error)),
    }
}

fn failed(verb: &'static str, path: &Path, error: &rrun_sys::Error) -> Error {
    Error::File {
        verb,
        path: path.to_owned(),
        source: std::io::Error::other(error.to_string()),
    }
}

fn mount(file: &File, image: &Path, on: &Path) -> Result<()> {
    let tree = detached(file, image).map_err(|error| {
        let hint = match error.errno().0 {
            code if code == Errno::NODEV.raw_os_error() => " (the kernel has no erofs)",
            code if code == Errno::NOENT.raw_os_error() => " (modprobe loop)",
            _ => "",
        };
        let source = std::io::Error::other(format!("{error}{hint}"));
        Error::File {
            verb: "mount",
            path: image.to_owned(),
            source,
        }
    })?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(on, flags, Mode::empty()).at("open", on)?;
    attach(tree.as_fd(), target.as_fd()).map_err(|error| failed("mount on", on, &error))
}

fn detached(file: &File, image: &Path) -> rrun_sys::Result<OwnedFd> {
    let name = image.to_str().filter(|name| name.len() <= VALUE_LIMIT);
    let on_overlay = rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type == OVERLAYFS);
    if let Some(name) = name
        && !on_overlay
    {
        match erofs_of(name) {
            Err(error) if error.is(Errno::NOTBLK.raw_os_error()) => {}
            other => return other,
        }
    }
    // The device must be open until it is mounted.
    let (_device, name) = loopdev::attach(file.as_fd())?;
    erofs_of(&name)
}

fn erofs_of(source: &str) -> rrun_sys::Result<OwnedFd> {
    let context = FsContext::open("erofs")?;
    context.set("source", source)?;
    context.flag("ro")?;
    context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV)
}
