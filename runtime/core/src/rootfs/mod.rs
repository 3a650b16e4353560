//! The container's root: mounted, filled, made the root, masked. Runs in the
//! init process, in the new mount namespace, and addresses everything by
//! descriptors below [`Root`].

pub mod cgroupfs;
mod copyup;
pub mod devices;
pub mod late;
mod mapped_overlay;
pub mod masks;
pub mod mounts;

use crate::explain::trace::{Key, span};
use crate::plan::{Mount, Plan, Source, namespaces};
use crate::sync::Channel;
use crate::{Context, Error, Result};
use rrun_sys::fd::Used;
use rrun_sys::mount::{self, MountAttr};
use rrun_sys::path;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Trees that the parent opened before the user namespace was entered, by index
/// in `mounts`; the root file system is at [`ROOT`].
pub type Trees = BTreeMap<usize, OwnedFd>;

/// Key of the root file system in [`Trees`].
pub const ROOT: usize = usize::MAX;

/// The root of the container's file system, attached but not yet "/".
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// The container's procfs, if the configuration mounts one of its own.
    proc: Option<OwnedFd>,
    /// Mounts that become read-only when everything is in them (/dev).
    read_only: Vec<OwnedFd>,
}

impl Root {
    /// The mount's root directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A procfs of the container's namespaces that nothing of the container can
    /// stand in for: the mount made here, or a private one (CVE-2025-52881).
    pub fn procfs(&mut self) -> Result<BorrowedFd<'_>> {
        if self.proc.is_none() {
            let proc = mount::FsContext::open("proc")?;
            self.proc = Some(proc.mount(0)?);
        }
        Ok(self.proc.as_ref().expect("set above").as_fd())
    }

    /// Makes sure that there is a procfs, if `needed`.
    pub fn procfs_if(&mut self, needed: bool) -> Result<()> {
        if needed {
            self.procfs().map(|_| ())
        } else {
            Ok(())
        }
    }

    /// Gives up the procfs.
    pub fn take_procfs(&mut self) -> Option<OwnedFd> {
        self.proc.take()
    }
}

/// Opens, in the caller's namespaces, what the init process will not be allowed
/// to open once it is in its user namespace: bind sources, the root.
pub fn open_trees(plan: &Plan) -> Result<Trees> {
    let mut trees = Trees::new();
    let root = match &plan.root_mount {
        Some(mount) => mounts::make(mount, &plan.rootfs)?,
        None => mounts::clone_host(&plan.rootfs, true, false)?,
    };
    let slave = MountAttr {
        propagation: namespaces_slave(),
        ..MountAttr::default()
    };
    mount::set_attr(root.as_fd(), true, &slave)?;
    trees.insert(ROOT, root);
    for m in &plan.mounts {
        if let Source::Bind {
            path,
            recursive,
            nofollow,
        } = &m.source
            && !path.starts_with(&plan.rootfs)
        {
            let tree = mounts::clone_host(path, *recursive, *nofollow)
                .with_context(|| format!("open source of mounts[{}]", m.index))?;
            // Copied from the host's namespace it is a peer of the host's mount.
            mount::set_attr(tree.as_fd(), true, &slave)?;
            trees.insert(m.index, tree);
        }
    }
    Ok(trees)
}

fn namespaces_slave() -> u64 {
    crate::plan::mounts::MS_SLAVE
}

/// Opens the sources of id-mapped mounts, and maps those that name their maps.
pub fn open_mapped_trees(plan: &Plan, trees: &mut Trees) -> Result<()> {
    for m in plan.mounts.iter().filter(|m| m.idmap.is_some()) {
        if !plan.namespaces.user() || late::is_late(plan, m) {
            // Init has the right to map them itself, in their turn, or asks for them.
            continue;
        }
        let what = || format!("map ids of mounts[{}]", m.index);
        let Source::Bind {
            path,
            recursive,
            nofollow,
        } = &m.source
        else {
            let overlay = mounts::make(m, &plan.rootfs).with_context(what)?;
            trees.insert(m.index, overlay);
            continue;
        };
        if let std::collections::btree_map::Entry::Vacant(e) = trees.entry(m.index) {
            e.insert(mounts::clone_host(path, *recursive, *nofollow).with_context(what)?);
        }
        let maps = m.idmap.as_ref().and_then(|i| i.maps.as_ref());
        if let Some((uids, gids)) = maps {
            let namespace = crate::idmap::user_namespace(uids, gids).with_context(what)?;
            map_tree(m, &trees[&m.index], namespace.as_fd()).with_context(what)?;
        }
    }
    Ok(())
}

/// Maps the ids of `tree`, if `m` wants that and nobody has done it.
pub(crate) fn map_in_turn(m: &Mount, tree: &OwnedFd) -> Result<()> {
    let Some(idmap) = &m.idmap else { return Ok(()) };
    let Some((uids, gids)) = &idmap.maps else {
        let field = format!("mounts[{}].uidMappings", m.index);
        let why = "are missing: without a user namespace idmap needs them";
        return Err(Error::config(field, why));
    };
    let namespace = crate::idmap::user_namespace(uids, gids)?;
    map_tree(m, tree, namespace.as_fd())
}

/// The same trees under other descriptors.
pub fn copy_trees(trees: &Trees) -> Result<Trees> {
    let copy = |(index, tree): (&usize, &OwnedFd)| {
        let tree = tree
            .try_clone()
            .map_err(|e| Error::file("dup", "mount", e))?;
        Ok((*index, tree))
    };
    trees.iter().map(copy).collect()
}

/// Maps those that use the maps of the container's user namespace.
pub fn map_trees(plan: &Plan, trees: &Trees, namespace: BorrowedFd<'_>) -> Result<()> {
    for m in &plan.mounts {
        if m.idmap.as_ref().is_some_and(|i| i.maps.is_none())
            && let Some(tree) = trees.get(&m.index)
        {
            map_tree(m, tree, namespace)
                .with_context(|| format!("map ids of mounts[{}]", m.index))?;
        }
    }
    Ok(())
}

fn map_tree(m: &Mount, tree: &OwnedFd, namespace: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr {
        set: mount::attr::IDMAP,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    let recursive = m.idmap.as_ref().is_some_and(|i| i.recursive);
    Ok(mount::set_attr(tree.as_fd(), recursive, &attr)?)
}

/// Mounts the root and everything in it; devices included. Leaves descriptors open: the caller
/// closes everything.
pub fn build(plan: &Plan, trees: &mut Trees, channel: &Channel) -> Result<Root> {
    let mut open = mounts::Open::default();
    let began = span(Key::Root);
    let mut root = attach_root(plan, trees, &mut open.used)?;
    drop(began);
    for mount in &plan.mounts {
        let _began = span(Key::Mount(mount.index));
        let done = if late::is_late(plan, mount) {
            late::fetch(mount, channel).map(|tree| drop(trees.insert(mount.index, tree)))
        } else {
            Ok(())
        };
        done.and_then(|()| mount_one(plan, &mut root, mount, trees, &mut open))
            .with_context(|| format!("error mounting {}", describe(mount)))?;
    }
    let began = span(Key::Devices);
    devices::make(plan, root.fd()).context("set up /dev")?;
    drop(began);
    // createContainer hooks find the root here, and pivot_root needs it.
    path::chdir_fd(root.fd())?;
    open.leave();
    Ok(root)
}

fn describe(mount: &Mount) -> String {
    let what = match &mount.source {
        Source::Bind { path, .. } => path.display().to_string(),
        Source::Cgroup { .. } => "cgroup".to_owned(),
        Source::Filesystem { kind, .. } => kind.clone(),
        Source::Remount { .. } => "remount".to_owned(),
    };
    format!(
        "{what} to rootfs at {} (mounts[{}])",
        mount.destination.display(),
        mount.index
    )
}

/// What the old root's mounts become before anything is mounted.
fn separate(plan: &Plan) -> Result<()> {
    use crate::plan::mounts::{MS_PRIVATE, MS_SLAVE};
    let (flags, recursive) = plan.propagation;
    let attr = |propagation| MountAttr {
        propagation,
        ..MountAttr::default()
    };
    if !plan.shares_mounts() {
        // Whatever the root is to be in the end, from here on nothing may reach the host.
        let keep = (flags, recursive) == (MS_PRIVATE, true);
        let propagation = if keep { MS_PRIVATE } else { MS_SLAVE };
        return mount::set_attr_at(c"/", true, &attr(propagation)).context("set propagation of /");
    }
    // The sources of bind mounts stay peers of the host's mounts: that is what was asked for. Not
    // so the mount that the root is attached to, which pivot_root(2) refuses as well.
    mount::set_attr_at(c"/", recursive, &attr(flags)).context("set propagation of /")?;
    let rootfs =
        std::fs::canonicalize(&plan.rootfs).map_err(|e| Error::file("resolve", &plan.rootfs, e))?;
    for dir in rootfs.ancestors() {
        let dir = path::open(dir, libc_path())?;
        match mount::set_attr(dir.as_fd(), false, &attr(MS_PRIVATE)) {
            // Not where a mount begins: further up.
            Err(e) if e.is(path::EINVAL) => {}
            result => return result.context("make the mount below the root private"),
        }
    }
    Ok(())
}

fn attach_root(plan: &Plan, trees: &mut Trees, used: &mut Used) -> Result<Root> {
    if plan.namespaces.has(namespaces::MOUNT) {
        separate(plan)?;
    }
    let what = || format!("mount root file system {}", plan.rootfs.display());
    let target = path::open(&plan.rootfs, libc_path()).with_context(what)?;
    let tree = match (trees.remove(&ROOT), &plan.root_mount) {
        (Some(tree), _) => tree,
        (None, Some(mount)) => mounts::make_using(mount, &plan.rootfs, used).with_context(what)?,
        (None, None) => mounts::clone_host(&plan.rootfs, true, false).with_context(what)?,
    };
    if plan.shares_mounts() {
        // What is mounted in the container must not appear in the host's copy of its root.
        let attr = MountAttr {
            propagation: crate::plan::mounts::MS_PRIVATE,
            ..MountAttr::default()
        };
        mount::set_attr(tree.as_fd(), true, &attr).with_context(what)?;
    }
    mount::attach(tree.as_fd(), target.as_fd()).with_context(what)?;
    used.put(target);
    Ok(Root {
        fd: tree,
        proc: None,
        read_only: Vec::new(),
    })
}

fn libc_path() -> i32 {
    path::O_PATH | path::O_DIRECTORY
}

fn mount_one(
    plan: &Plan,
    root: &mut Root,
    mount: &Mount,
    trees: &mut Trees,
    open: &mut mounts::Open,
) -> Result<()> {
    let dev = std::path::Path::new("/dev");
    if mount.destination == dev && mount.attr.set & mount::attr::RDONLY != 0 {
        // Its nodes and mount points are still to be made.
        let set = mount.attr.set & !mount::attr::RDONLY;
        let attr = MountAttr { set, ..mount.attr };
        mounts::mount(
            plan,
            root.fd(),
            &Mount {
                attr,
                ..mount.clone()
            },
            trees,
            open,
        )?;
        root.read_only
            .push(path::open_in_root(root.fd(), dev, path::O_PATH)?);
        return Ok(());
    }
    if let Some(proc) = mounts::mount(plan, root.fd(), mount, trees, open)? {
        root.proc = Some(proc);
    }
    Ok(())
}

/// Makes the container's root the process's root, and the host's disappear.
/// The working directory is the root already.
pub fn enter(plan: &Plan) -> Result<()> {
    if !plan.namespaces.has(namespaces::MOUNT) {
        return Ok(rrun_sys::path::chroot_here()?);
    }
    if plan.options.no_pivot {
        cover_kernel_mounts(plan).context("cover the host's proc and sysfs (--no-pivot)")?;
        return mount::move_root_here().context("move the root mount (--no-pivot)");
    }
    mount::pivot_root_here(plan.shares_mounts()).context("pivot_root")
}

/// Without pivot_root the host's mounts stay below the container's root. A full
/// procfs or sysfs among them would let the container mount one without masks,
/// so they go, or are covered.
fn cover_kernel_mounts(plan: &Plan) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| Error::file("read", path, e));
    for line in read("/proc/self/mountinfo")?.lines().rev() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(target)) = (left.next(), left.next()) else {
            continue;
        };
        let kernel = right.starts_with("proc ") || right.starts_with("sysfs ");
        let target = std::path::Path::new(target);
        if !kernel || root != "/" || target.starts_with(&plan.rootfs) {
            continue;
        }
        if mount::detach(target).is_ok() {
            continue;
        }
        let Ok(place) = path::open(target, path::O_PATH) else {
            continue;
        };
        let cover = mount::FsContext::open("tmpfs")?.mount(0)?;
        mount::attach(cover.as_fd(), place.as_fd())?;
    }
    Ok(())
}

/// What needs everything to be in place: propagation and read-only root.
pub fn seal(plan: &Plan, root: &Root) -> Result<()> {
    if !plan.namespaces.has(namespaces::MOUNT) {
        return Ok(());
    }
    let (flags, recursive) = plan.propagation;
    if flags == crate::plan::mounts::MS_SHARED || flags == crate::plan::mounts::MS_UNBINDABLE {
        let attr = MountAttr {
            propagation: flags,
            ..MountAttr::default()
        };
        mount::set_attr(root.fd(), recursive, &attr).context("set rootfsPropagation")?;
    }
    let read_only = MountAttr {
        set: mount::attr::RDONLY,
        ..MountAttr::default()
    };
    for mount in &root.read_only {
        mount::set_attr(mount.as_fd(), false, &read_only).context("make /dev read-only")?;
    }
    if plan.readonly_root() {
        let attr = MountAttr {
            set: mount::attr::RDONLY,
            ..MountAttr::default()
        };
        mount::set_attr(root.fd(), false, &attr).context("make the root read-only")?;
    }
    Ok(())
}
