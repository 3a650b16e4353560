//! Overlays by fuse-overlayfs(1), for users for whom the kernel mounts none.
//!
//! Such a mount belongs to its user, who alone may reach it, outside of all namespaces: it is made by
//! the user as such, whose files all are (see [`crate::identity`]). A program of the user's serves it
//! until it is unmounted; where that was killed, or the machine was off, it is made again when the
//! rootfs is asked for.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rrun_sys::mount::{FsContext, attr};
use rrun_sys::process::{self, Clone as Side, Exit};
use rustix::io::Errno;

use super::mounts::is_below;
use super::{LayerFormat, OverlayRootfs, Store};
use crate::error::FileContext;
use crate::identity::{self, Privilege};
use crate::{Error, Result, files};

const PROGRAM: &str = "fuse-overlayfs";
/// The program's name for both, of libfuse 3 and 2.
const UNMOUNT: [&str; 2] = ["fusermount3", "fusermount"];
/// How it says that a directory hides those below, beside [`MARKS`] in it.
const OPAQUE: &str = "user.fuseoverlayfs.opaque";
pub(super) const MARKS: [&str; 2] = [".wh..wh..opq", ".wh..opq"];
/// In a store that was used with fuse-overlayfs: the name of the snapshotter.
const NOTE: &str = "snapshotter";
/// `CLONE_NEWUSER` and `CLONE_NEWNS` of sched.h.
const NAMESPACES: i32 = 0x1000_0000 | 0x2_0000;

impl LayerFormat {
    /// What a store is used with where nobody says: directories, which fuse-overlayfs stacks in a store
    /// that knows it already, and for a user who is not root where the kernel mounts no overlayfs in
    /// a user namespace (before 5.11, or by a rule of the machine).
    ///
    /// The process must have one thread.
    pub fn of_store(root: &Path) -> Self {
        let rootless = Privilege::now() == Privilege::User;
        if rootless && (root.join(NOTE).exists() || kernel_refuses()) {
            Self::FuseOverlayfs
        } else {
            Self::Overlayfs
        }
    }
}

/// Whether overlayfs cannot be mounted in a user namespace. Where there can be no such namespace
/// at all, another overlay would not help: then it is not to blame.
fn kernel_refuses() -> bool {
    match process::clone3(NAMESPACES, None) {
        Ok(Side::Child) => process::exit_now(i32::from(!mounts_overlay())),
        Ok(Side::Parent { pid, .. }) => {
            let ended = process::wait(pid, false);
            ended.is_ok_and(|ended| matches!(ended, Some((_, Exit::Code(1)))))
        }
        Err(_) => false,
    }
}

/// Two directories on each other, read-only. Whatever is wrong with those is found after the question
/// whether it may be done at all.
fn mounts_overlay() -> bool {
    let made = FsContext::open("overlay").and_then(|context| {
        context.set("lowerdir", "/etc:/usr")?;
        context.flag("userxattr")?;
        context.mount(attr::RDONLY)
    });
    let refused = [Errno::PERM, Errno::ACCESS, Errno::NODEV, Errno::NOSYS];
    made.err()
        .is_none_or(|error| !refused.iter().any(|errno| error.is(errno.raw_os_error())))
}

impl Store {
    /// Notes that the store is used with fuse-overlayfs, so that every command is, whatever it is told.
    pub(super) fn note_fuse(&self) -> Result<()> {
        if self.knows_fuse() {
            return Ok(());
        }
        let layers = self.root.join("layers");
        let has_layers = fs::read_dir(&layers).at("list", &layers)?.next().is_some();
        if has_layers && identity::has_lent_ids() {
            let why = "its files have the owners that /etc/subuid lends, which fuse-overlayfs \
                       cannot give them: take another --store";
            return Err(Error::unsupported(
                format!("snapshotter fuse-overlayfs in {}", self.root.display()),
                why,
            ));
        }
        files::write_durable(&self.root.join(NOTE), b"fuse-overlayfs\n")
    }

    pub(super) fn knows_fuse(&self) -> bool {
        self.root.join(NOTE).exists()
    }

    /// True where containers stand on mounts of fuse-overlayfs.
    pub(crate) fn uses_fuse(&self) -> bool {
        self.format == LayerFormat::FuseOverlayfs
    }

    /// Makes a rootfs' mount again where a reboot ended it, or its program was killed.
    pub(super) fn keep_by_fuse(&self, rootfs: &OverlayRootfs, at: &Path) -> Result<()> {
        if is_dead(at) {
            unmount(at)?;
        }
        if is_mounted(at) {
            return Ok(());
        }
        self.mount_by_fuse(rootfs, at, true)
    }

    /// Mounts a rootfs on a directory, by an absolute path. Without its writable layer it is read-only.
    pub(super) fn mount_by_fuse(
        &self,
        rootfs: &OverlayRootfs,
        at: &Path,
        writes: bool,
    ) -> Result<()> {
        // From the store on, a layer's path has nothing that would have to be escaped.
        let below = |path: &PathBuf| {
            let path = path.strip_prefix(&self.root).unwrap_or(path);
            path.display().to_string()
        };
        let lower: Vec<String> = rootfs.lower.iter().map(below).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if writes {
            for (key, path) in [("upperdir", &rootfs.upper), ("workdir", &rootfs.work)] {
                options += &format!(",{key}={}", escape(path));
            }
        }
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(&self.root)
            .arg("-o")
            .arg(options)
            .arg(at);
        run(command, "mount", at)
    }
}

/// libfuse splits options at `,` unless it is escaped.
fn escape(path: &Path) -> String {
    let path = path.display().to_string();
    path.replace('\\', r"\\").replace(',', r"\,")
}

/// Ends such a mount. One that is not there is not an error.
pub(super) fn unmount(at: &Path) -> Result<()> {
    if !is_mounted(at) {
        return Ok(());
    }
    let program = UNMOUNT
        .into_iter()
        .find(|name| identity::on_path(name))
        .unwrap_or(UNMOUNT[0]);
    let mut command = Command::new(program);
    command.arg("-u").arg("--").arg(at);
    run(command, "unmount", at)
}

/// True also of a mount that nobody serves.
fn is_mounted(at: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    match (device(at), at.parent().map(device)) {
        (Ok(own), Some(Ok(above))) => own != above,
        _ => is_dead(at),
    }
}

/// True of a mount whose program was killed. Its attributes may still be known to the kernel, which
/// has nobody to ask for those of the file system.
fn is_dead(at: &Path) -> bool {
    rustix::fs::statfs(at).is_err_and(|errno| errno == Errno::NOTCONN)
}

/// Writes what fuse-overlayfs says about directories in an upper one in the kernel's words. It calls
/// each new directory opaque; only where a layer below has one of that name does it matter.
pub(super) fn translate(rootfs: &OverlayRootfs, at: &Path) -> Result<()> {
    let dir = rootfs.upper.join(at);
    let mut opaque = rustix::fs::removexattr(&dir, OPAQUE).is_ok();
    let entries = fs::read_dir(&dir).at("list", &dir)?;
    for entry in entries {
        let entry = entry.at("list", &dir)?;
        let path = entry.path();
        if MARKS.iter().any(|mark| entry.file_name() == *mark) {
            fs::remove_file(&path).at("remove", &path)?;
            opaque = true;
        } else if entry.file_type().at("stat", &path)?.is_dir() {
            translate(rootfs, &at.join(entry.file_name()))?;
        }
    }
    if opaque && is_below(rootfs, at) {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&dir, "user.overlay.opaque", b"y", flags).at("mark", &dir)?;
    }
    Ok(())
}

fn run(mut command: Command, verb: &'static str, at: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let why = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{program}: {}", said.trim().replace('\n', "; "))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            format!("{program} is not installed (packages fuse-overlayfs and fuse3)")
        }
        Err(error) => format!("{program}: {error}"),
    };
    Err(Error::File {
        verb,
        path: at.to_owned(),
        source: std::io::Error::other(why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_need_not_be_unmounted() {
        let dir = tempfile::tempdir().unwrap();
        unmount(dir.path()).unwrap();
        unmount(&dir.path().join("gone")).unwrap();
        assert!(!is_mounted(dir.path()) && !is_dead(&dir.path().join("gone")));
    }

    #[test]
    fn commas_are_escaped_once() {
        assert_eq!(escape(Path::new(r"/a,b:c\d")), r"/a\,b:c\\d");
    }
}
