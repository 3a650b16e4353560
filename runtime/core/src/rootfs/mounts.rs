//! Executing one planned mount.

use super::Trees;
use crate::annotations::is_context;
use crate::plan::{Mount, Plan, Source, mounts::is_superblock_flag};
use crate::{Context, Error, Result};
use rrun_sys::cred;
use rrun_sys::fd::Used;
use rrun_sys::mount::{self, FsContext, MountAttr, attr};
use rrun_sys::path::{self, Kind, Make};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A detached copy of the host's tree at `path`.
pub fn clone_host(path: &Path, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::config("mounts", format!("{} holds a nul byte", path.display())))?;
    Ok(mount::clone_tree(path::cwd(), &path, recursive, !nofollow)?)
}

/// Makes a new instance of a file system, not yet attached. `place` is where a
/// file system with options too long for fsconfig(2) is mounted with mount(2).
pub fn make(mount: &Mount, place: &Path) -> Result<OwnedFd> {
    make_using(mount, place, &mut Used::default())
}

/// [`make`], with what is left open given to `used`.
pub fn make_using(mount: &Mount, place: &Path, used: &mut Used) -> Result<OwnedFd> {
    let Source::Filesystem { kind, source, data } = &mount.source else {
        return Err(Error::config(
            "mounts",
            "a mount on \"/\" must name a file system type",
        ));
    };
    let long = data
        .iter()
        .any(|(_, v)| v.as_ref().is_some_and(|v| v.len() > FSCONFIG_MAX));
    if kind == "overlay" {
        return match mount.idmap {
            Some(_) => super::mapped_overlay::make(mount, place),
            None => overlay(mount, source, data, place),
        };
    }
    if long {
        return classic(kind, source, data, mount, place);
    }
    let fs = FsContext::open(kind)?;
    if !source.is_empty() {
        fs.set("source", source)?;
    }
    for (key, value) in data {
        // What it asks for is so since Linux 4.7.
        if key == "newinstance" && kind == "devpts" {
            continue;
        }
        set(&fs, key, value.as_deref())?;
    }
    if mount.attr.set & attr::RDONLY != 0 && !VIRTUAL.contains(&kind.as_str()) {
        fs.flag("ro")?;
    }
    Ok(fs.mount_using(mount.attr.set, used)?)
}

/// fsconfig(2) takes values of at most 255 bytes.
const FSCONFIG_MAX: usize = 255;

/// File systems without a device: read-only is a matter of the mount alone.
const VIRTUAL: [&str; 9] = [
    "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs", "overlay",
];

fn set(fs: &FsContext, key: &str, value: Option<&str>) -> Result<()> {
    match value {
        Some(value) => fs.set(key, value)?,
        None if is_superblock_flag(key) || !key.is_empty() => fs.flag(key)?,
        None => {}
    }
    Ok(())
}

/// Changes options of the file system that is mounted at `target`.
fn reconfigure(target: BorrowedFd<'_>, data: &[(String, Option<String>)]) -> Result<()> {
    let fs = FsContext::pick(target)?;
    for (key, value) in data {
        set(&fs, key, value.as_deref())?;
    }
    Ok(fs.reconfigure()?)
}

/// Overlay with its layers given one by one (`lowerdir+`, kernel 6.5): neither
/// 255 bytes nor a page of options limit how many there are.
pub(super) fn overlay(
    mount: &Mount,
    source: &str,
    data: &[(String, Option<String>)],
    place: &Path,
) -> Result<OwnedFd> {
    let source = if source.is_empty() { "overlay" } else { source };
    below_quotas(|| match layered(mount, source, data) {
        // Before 6.5 overlay takes any key and refuses it when the file system is created.
        Err(error) if error.errno() == Some(path::EINVAL) => {
            classic("overlay", source, data, mount, place)
        }
        made => made,
    })
}

/// Overlayfs writes with the rights of whoever mounted it, and whoever has CAP_SYS_RESOURCE may
/// write beyond quotas and into reserved blocks (ext4): a container would have no bound.
fn below_quotas<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    /// CAP_SYS_RESOURCE of linux/capability.h.
    const SYS_RESOURCE: u64 = 1 << 24;
    let own = cred::capabilities()?;
    if own.effective & SYS_RESOURCE == 0 {
        return make();
    }
    let less = cred::Capabilities {
        effective: own.effective & !SYS_RESOURCE,
        ..own
    };
    cred::set_capabilities(&less)?;
    let made = make();
    cred::set_capabilities(&own)?;
    made
}

fn layered(mount: &Mount, source: &str, data: &[(String, Option<String>)]) -> Result<OwnedFd> {
    let fs = FsContext::open("overlay")?;
    fs.set("source", source)?;
    for (key, value) in data {
        match value.as_deref() {
            Some(value) if key == "lowerdir" => {
                for layer in split_layers(value) {
                    directory(&fs, "lowerdir+", &layer)?;
                }
            }
            Some(value) if key == "upperdir" || key == "workdir" => directory(&fs, key, value)?,
            value => set(&fs, key, value)?,
        }
    }
    Ok(fs.mount(mount.attr.set)?)
}

/// Splits at ":" that no backslash escapes.
pub(super) fn split_layers(text: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = layers.last_mut().expect("never empty");
        match c {
            '\\' => last.extend(chars.next()),
            ':' => layers.push(String::new()),
            c => last.push(c),
        }
    }
    layers.retain(|l| !l.is_empty());
    layers
}

fn directory(fs: &FsContext, key: &str, value: &str) -> Result<()> {
    if value.len() <= FSCONFIG_MAX {
        return Ok(fs.set(key, value)?);
    }
    let dir = path::open(Path::new(value), path::O_PATH | path::O_DIRECTORY)?;
    Ok(fs.set_fd(key, dir.as_fd())?)
}

/// mount(2), for options that fsconfig(2) cannot carry.
fn classic(
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
    mount: &Mount,
    place: &Path,
) -> Result<OwnedFd> {
    let options: Vec<String> = data.iter().map(option).collect();
    mount::mount_classic(source, place, kind, &options.join(","))?;
    let tree = clone_host(place, false, false)?;
    mount::detach(place)?;
    mount::set_attr(tree.as_fd(), false, &mount.attr)?;
    Ok(tree)
}

/// As mount(2) takes it: categories of an SELinux context are separated by commas, as options are.
fn option((key, value): &(String, Option<String>)) -> String {
    match value {
        None => key.clone(),
        Some(value) if is_context(key) => format!("{key}=\"{value}\""),
        Some(value) => format!("{key}={value}"),
    }
}

/// What mounts leave open.
#[derive(Debug, Default)]
pub struct Open {
    /// What has had its use.
    pub used: Used,
    /// The tmpfs that was just mounted on /dev: there is nothing in it but what is made here.
    dev: Option<OwnedFd>,
}

impl Open {
    /// Makes a mount point in the new /dev, by its name.
    fn in_dev<'a>(&self, mount: &'a Mount) -> Option<&'a Path> {
        let name = mount.destination.strip_prefix("/dev").ok()?;
        let dev = self
            .dev
            .as_ref()
            .filter(|_| name.components().count() == 1)?;
        path::mkdir_at(dev.as_fd(), name, 0o755).ok().map(|()| name)
    }

    /// Keeps `tree`, which is mounted now, if what comes next may be in it.
    fn put(&mut self, mount: &Mount, kind: &str, tree: OwnedFd) {
        if kind == "tmpfs" && mount.destination == Path::new("/dev") {
            self.dev = Some(tree);
        } else {
            self.used.put(tree);
        }
    }

    /// Another mount than one in /dev could cover it.
    fn forget_dev(&mut self, mount: &Mount) {
        if !mount.destination.starts_with("/dev") || mount.destination == Path::new("/dev") {
            self.dev
                .take()
                .into_iter()
                .for_each(|dev| self.used.put(dev));
        }
    }

    /// Leaves all of them to who closes everything.
    pub fn leave(mut self) {
        self.dev
            .take()
            .into_iter()
            .for_each(|dev| self.used.put(dev));
        self.used.leave();
    }
}

/// Executes `mount` below `root`. Returns the mount if it is the container's procfs.
pub fn mount(
    plan: &Plan,
    root: BorrowedFd<'_>,
    mount: &Mount,
    trees: &mut Trees,
    open: &mut Open,
) -> Result<Option<OwnedFd>> {
    check_proc(mount)?;
    open.forget_dev(mount);
    match &mount.source {
        Source::Remount { data } => {
            let target = path::open_in_root(root, &mount.destination, path::O_PATH)?;
            if !data.is_empty() {
                reconfigure(target.as_fd(), data)?;
            }
            attributes(mount, target.as_fd(), true)?;
            Ok(None)
        }
        Source::Cgroup { .. } => {
            super::cgroupfs::mount(plan, root, mount, &mut open.used).map(|()| None)
        }
        Source::Bind { .. } => bind(plan, root, mount, trees, open).map(|()| None),
        Source::Filesystem { kind, .. } => match (trees.remove(&mount.index), open.in_dev(mount)) {
            (None, Some(name)) => in_dev(plan, mount, name, open).map(|()| None),
            (made, _) => {
                let tree = filesystem(plan, root, mount, made, &mut open.used)?;
                if kind == "proc" && mount.destination == Path::new("/proc") {
                    return Ok(Some(tree));
                }
                open.put(mount, kind, tree);
                Ok(None)
            }
        },
    }
}

fn bind(
    plan: &Plan,
    root: BorrowedFd<'_>,
    mount: &Mount,
    trees: &mut Trees,
    open: &mut Open,
) -> Result<()> {
    let Source::Bind {
        path,
        recursive,
        nofollow,
    } = &mount.source
    else {
        return Ok(());
    };
    let clone = || clone_host(path, *recursive, *nofollow);
    let tree = match trees.remove(&mount.index) {
        // In this mount namespace attributes of the host's mounts are locked, as they should be
        // for a user namespace; the parent's copy is for what may not be opened from here.
        Some(tree) if mount.idmap.is_none() => clone().unwrap_or(tree),
        Some(tree) => tree,
        None => {
            let tree = clone()?;
            super::map_in_turn(mount, &tree)?;
            tree
        }
    };
    if mount.copy_symlink && path::stat(tree.as_fd())?.kind == Kind::Symlink {
        return copy_symlink(root, path, &mount.destination);
    }
    place(plan, root, mount, &tree)?;
    open.used.put(tree);
    Ok(())
}

/// A new file system at the mount point `name`, just made in the new /dev.
fn in_dev(plan: &Plan, mount: &Mount, name: &Path, open: &mut Open) -> Result<()> {
    let tree = make_using(mount, &plan.rootfs, &mut open.used)?;
    attributes(mount, tree.as_fd(), false)?;
    let dev = open.dev.as_ref().expect("a mount point was made in it");
    mount::attach_at(tree.as_fd(), dev.as_fd(), name)?;
    propagate(mount, tree.as_fd())?;
    open.used.put(tree);
    Ok(())
}

/// A new file system, or the one that the parent `made`, anywhere else.
fn filesystem(
    plan: &Plan,
    root: BorrowedFd<'_>,
    mount: &Mount,
    made: Option<OwnedFd>,
    used: &mut Used,
) -> Result<OwnedFd> {
    let kind = match &mount.source {
        Source::Filesystem { kind, .. } => kind.as_str(),
        _ => "",
    };
    let (target, existed) = destination(root, mount, kind)?;
    if let Some(tree) = made {
        // With its attributes.
        mount::attach(tree.as_fd(), target.as_fd())?;
        propagate(mount, tree.as_fd())?;
        return Ok(tree);
    }
    let inherited;
    let mount = if existed && kind == "tmpfs" && mount.data("mode").is_none() {
        inherited = with_mode(mount, path::stat(target.as_fd())?.mode);
        &inherited
    } else {
        mount
    };
    let copyup = mount.tmpcopyup && kind == "tmpfs";
    let tree = if copyup {
        let set = mount.attr.set & !attr::RDONLY;
        let attr = MountAttr { set, ..mount.attr };
        let writable = Mount {
            attr,
            ..mount.clone()
        };
        let tree = make_using(&writable, &plan.rootfs, used)?;
        super::copyup::copy(target.as_fd(), tree.as_fd()).context("tmpcopyup")?;
        tree
    } else {
        make_using(mount, &plan.rootfs, used)?
    };
    attributes(mount, tree.as_fd(), copyup)?;
    mount::attach(tree.as_fd(), target.as_fd())?;
    propagate(mount, tree.as_fd())?;
    used.put(target);
    Ok(tree)
}

/// Makes the symbolic link `source` of the host at `destination`, where nothing may be yet but the same.
fn copy_symlink(root: BorrowedFd<'_>, source: &Path, destination: &Path) -> Result<()> {
    let target = std::fs::read_link(source).map_err(|e| Error::file("readlink", source, e))?;
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return Err(Error::config("mounts", "a link cannot be made on \"/\""));
    };
    let parent = path::make_in_root(root, parent, Make::Dir)?;
    let name = Path::new(name);
    match path::symlink(&target, parent.as_fd(), name) {
        Err(e)
            if e.is(path::EEXIST)
                && path::read_link_at(parent.as_fd(), name).is_ok_and(|there| there == target) =>
        {
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Attaches `tree`, whose root may be a file, at the destination, with the attributes of a bind mount.
pub fn place(plan: &Plan, root: BorrowedFd<'_>, mount: &Mount, tree: &OwnedFd) -> Result<()> {
    bind_attributes(plan, mount, tree.as_fd())?;
    let make = match path::stat(tree.as_fd())?.kind {
        Kind::Dir => Make::Dir,
        _ => Make::File,
    };
    let target = path::make_in_root(root, &mount.destination, make)?;
    mount::attach(tree.as_fd(), target.as_fd())?;
    propagate(mount, tree.as_fd())
}

/// A tmpfs without a mode takes on that of the directory it covers.
fn with_mode(mount: &Mount, mode: u32) -> Mount {
    let mut mount = mount.clone();
    if let Source::Filesystem { data, .. } = &mut mount.source {
        data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    mount
}

/// The directory that a new file system is mounted on, and whether it was there before.
/// For proc and sysfs no symbolic link may be on the way: masks and labels would apply
/// elsewhere (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
fn destination(root: BorrowedFd<'_>, mount: &Mount, kind: &str) -> Result<(OwnedFd, bool)> {
    if kind == "proc" || kind == "sysfs" {
        match path::open_plain_in_root(root, &mount.destination) {
            Ok(fd) => return Ok((fd, true)),
            Err(e) if e.is(rrun_sys::path::ENOENT) => {}
            Err(e) => {
                return Err(Error::Step {
                    what: format!("filesystem {kind:?} must be mounted on ordinary directory")
                        .into(),
                    source: Box::new(e.into()),
                });
            }
        }
    }
    Ok(path::find_or_make(root, &mount.destination, Make::Dir)?)
}

/// Applies what fsmount(2) did not: attributes of binds, recursive ones.
fn attributes(mount: &Mount, tree: BorrowedFd<'_>, plain: bool) -> Result<()> {
    if plain && !mount.attr.is_empty() {
        mount::set_attr(tree, false, &mount.attr)?;
    }
    if !mount.recursive_attr.is_empty() {
        mount::set_attr(tree, true, &mount.recursive_attr)?;
    }
    Ok(())
}

/// Those of a bind mount: anew; in a user namespace locked ones that nobody named stay.
fn bind_attributes(plan: &Plan, mount: &Mount, tree: BorrowedFd<'_>) -> Result<()> {
    match attributes(mount, tree, true) {
        Err(error) if plan.namespaces.user() && error.errno() == Some(path::EPERM) => {
            let named = Mount {
                attr: mount.named_attr,
                ..mount.clone()
            };
            attributes(&named, tree, true)
        }
        result => result,
    }
}

fn propagate(mount: &Mount, tree: BorrowedFd<'_>) -> Result<()> {
    for &(flags, recursive) in &mount.propagation {
        let attr = MountAttr {
            propagation: flags,
            ..MountAttr::default()
        };
        mount::set_attr(tree, recursive, &attr)?;
    }
    Ok(())
}

/// Files of /proc that may be mounted over (those that LXCFS and the like provide).
const PROC_FILES: [&str; 13] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/vm/overcommit_memory",
    "/proc/version",
];

/// Mounts inside /proc would fake or hide what labels and masks rely on
/// (CVE-2019-16884, CVE-2019-19921).
fn check_proc(mount: &Mount) -> Result<()> {
    let destination = mount.destination.as_path();
    if !destination.starts_with("/proc") {
        return Ok(());
    }
    let refuse = |why: &str| {
        Err(Error::config(
            format!("mounts[{}].destination", mount.index),
            why.to_owned(),
        ))
    };
    if destination == Path::new("/proc") {
        return match &mount.source {
            Source::Filesystem { kind, .. } if kind == "proc" => Ok(()),
            Source::Bind { path, .. } => {
                let source = path::open(path, path::O_PATH)?;
                let proc = path::fs_magic(source.as_fd())? == path::PROC_SUPER_MAGIC;
                if proc {
                    Ok(())
                } else {
                    refuse("/proc: only a procfs can be mounted on /proc")
                }
            }
            Source::Remount { .. } => Ok(()),
            _ => refuse("/proc: only a procfs can be mounted on /proc"),
        };
    }
    if PROC_FILES.iter().any(|file| destination == Path::new(file)) {
        return Ok(());
    }
    refuse(&format!(
        "{} is inside proc: it cannot be mounted over",
        destination.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::split_layers;

    #[test]
    fn commas_of_a_label_do_not_end_an_option_of_mount() {
        let given = |key: &str, value: &str| super::option(&(key.into(), Some(value.into())));
        let label = "u:r:t:s0:c1,c2";
        assert_eq!(given("context", label), format!("context=\"{label}\""));
        assert_eq!(given("upperdir", "/a"), "upperdir=/a");
    }

    #[test]
    fn layers_split_at_unescaped_colons() {
        assert_eq!(split_layers("/a:/b\\:c:/d\\\\"), ["/a", "/b:c", "/d\\"]);
    }
}
