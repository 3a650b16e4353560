//! Masked and read-only paths.

use crate::plan::{Plan, Source};
use crate::{Context, Error, Result};
use rrun_sys::fd::Used;
use rrun_sys::mount::{self, FsContext, MountAttr, attr};
use rrun_sys::path::{self, Kind};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Applies `readonlyPaths` and `maskedPaths` below the (entered) root. `null` is the container's
/// null device, where it is open already. Leaves descriptors open: the caller closes everything.
pub fn apply(plan: &Plan, root: BorrowedFd<'_>, null: Option<OwnedFd>) -> Result<()> {
    let Some(linux) = plan.spec.linux() else {
        return Ok(());
    };
    let mut used = Used::default();
    for path in linux.readonly_paths().iter().flatten() {
        let path = Path::new(path);
        read_only(root, path, has_mounts_below(plan, path), &mut used)
            .with_context(|| format!("make {} read-only", path.display()))?;
    }
    let mut covers = Covers {
        directory: None,
        file: null,
    };
    let mut seen = BTreeSet::new();
    let masked = linux.masked_paths().iter().flatten();
    for path in masked.filter(|path| seen.insert(path.trim_end_matches('/'))) {
        covers
            .mask(root, Path::new(path), &mut used)
            .with_context(|| format!("mask {path}"))?;
    }
    covers
        .directory
        .into_iter()
        .chain(covers.file)
        .for_each(|fd| used.put(fd));
    used.leave();
    Ok(())
}

/// Opens `path` below `root`; `None` when it is not there, which is no error:
/// the lists name what some kernels have.
fn open(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match path::open_in_root(root, path, path::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.is(path::ENOENT) || e.is(path::ENOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether there may be mounts below `path`. They stay as they are, as with runc and crun: a
/// writable cgroup below a read-only /sys.
fn has_mounts_below(plan: &Plan, path: &Path) -> bool {
    plan.mounts.iter().any(|m| {
        let tree = matches!(
            m.source,
            Source::Bind {
                recursive: true,
                ..
            }
        );
        m.destination.starts_with(path) || tree && path.starts_with(&m.destination)
    })
}

fn read_only(root: BorrowedFd<'_>, path: &Path, nested: bool, used: &mut Used) -> Result<()> {
    let Some(target) = open(root, path)? else {
        return Ok(());
    };
    let attr = MountAttr {
        set: attr::RDONLY,
        ..MountAttr::default()
    };
    let tree = if nested {
        let tree = mount::clone_tree(target.as_fd(), c"", true, false)?;
        mount::set_attr(tree.as_fd(), false, &attr)?;
        tree
    } else {
        mount::clone_tree_with(target.as_fd(), true, &attr)?
    };
    mount::attach(tree.as_fd(), target.as_fd())?;
    used.put(tree);
    used.put(target);
    Ok(())
}

/// What masks are made of: one empty read-only tmpfs for all directories, and
/// the container's /dev/null for all files. Both are attached before they are
/// cloned: a mount attached nowhere can be cloned only since Linux 6.15.
struct Covers {
    directory: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

impl Covers {
    fn mask(&mut self, root: BorrowedFd<'_>, path: &Path, used: &mut Used) -> Result<()> {
        let Some(target) = open(root, path)? else {
            return Ok(());
        };
        let cover = match path::stat(target.as_fd())?.kind {
            Kind::Dir => match &self.directory {
                Some(directory) => directory.as_fd(),
                None => return self.first_directory(target, used),
            },
            _ => self.file(root)?,
        };
        let tree = mount::clone_tree(cover, c"", false, false)?;
        mount::attach(tree.as_fd(), target.as_fd())?;
        used.put(tree);
        used.put(target);
        Ok(())
    }

    fn first_directory(&mut self, target: OwnedFd, used: &mut Used) -> Result<()> {
        let fs = FsContext::open("tmpfs")?;
        fs.set("source", "tmpfs")?;
        fs.set("nr_blocks", "1")?;
        fs.set("nr_inodes", "1")?;
        let directory = fs.mount_using(attr::RDONLY, used)?;
        mount::attach(directory.as_fd(), target.as_fd())?;
        self.directory = Some(directory);
        used.put(target);
        Ok(())
    }

    /// The container's /dev/null, proven to be that device: an image could have
    /// put a link there (CVE-2025-31133).
    fn file(&mut self, root: BorrowedFd<'_>) -> Result<BorrowedFd<'_>> {
        if self.file.is_none() {
            let null = path::open_in_root(root, Path::new("/dev/null"), path::O_PATH)?;
            let stat = path::stat(null.as_fd())?;
            if stat.kind != Kind::CharDevice || stat.rdev != path::makedev(1, 3) {
                return Err(Error::State(
                    "/dev/null of the container is not the null device".into(),
                ));
            }
            self.file = Some(null);
        }
        Ok(self.file.as_ref().expect("set above").as_fd())
    }
}
