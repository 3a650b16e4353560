//! The mount of type `cgroup`: the container's view of its own cgroups.

use crate::cgroup::hierarchy;
use crate::plan::{Mount, Plan, Source, namespaces};
use crate::{Context, Error, Result};
use rrun_sys::fd::Used;
use rrun_sys::mount::{self, FsContext, attr};
use rrun_sys::path::{self, Make};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mounts the cgroups at `mount.destination`. The caller is in its cgroup and,
/// where the plan has one, in its cgroup namespace.
pub fn mount(plan: &Plan, root: BorrowedFd<'_>, mount: &Mount, used: &mut Used) -> Result<()> {
    let target = path::make_in_root(root, &mount.destination, Make::Dir)?;
    let planned = planned(plan);
    let asked = mount.source == Source::Cgroup { unified: true };
    if asked || planned.is_empty() && hierarchy::is_unified() {
        let tree = unified(mount)?;
        return Ok(mount::attach(tree.as_fd(), target.as_fd())?);
    }
    let hierarchies = if planned.is_empty() {
        hierarchies()?
    } else {
        planned
    };
    let own_namespace = plan.namespaces.has(namespaces::CGROUP);
    let cover = FsContext::open("tmpfs")?;
    cover.set("source", "cgroup")?;
    cover.set("mode", "755")?;
    // Its directories are made first: read-only comes last.
    let cover = cover.mount_using(mount.attr.set & !attr::RDONLY, used)?;
    mount::attach(cover.as_fd(), target.as_fd())?;
    for hierarchy in hierarchies {
        one(cover.as_fd(), mount, &hierarchy, own_namespace, used)
            .with_context(|| format!("mount cgroup hierarchy {}", hierarchy.name))?;
    }
    // With the hierarchies below it, in one call.
    if !mount.attr.is_empty() {
        mount::set_attr(cover.as_fd(), true, &mount.attr)?;
    }
    used.put(target);
    used.put(cover);
    Ok(())
}

fn unified(mount: &Mount) -> Result<OwnedFd> {
    let fresh = FsContext::open("cgroup2").and_then(|fs| fs.mount(mount.attr.set));
    match fresh {
        // A user namespace without a cgroup namespace of its own may not. It gets its own cgroup
        // and no other: the host's would be writable where it is delegated (CVE-2023-25809).
        Err(e) if e.is(path::EPERM) || e.is(path::EBUSY) => {
            let own = std::fs::read_to_string("/proc/self/cgroup")
                .map_err(|e| Error::file("read", "/proc/self/cgroup", e))?;
            let own = own
                .lines()
                .find_map(|l| l.strip_prefix("0::/"))
                .unwrap_or_default();
            let top = if hierarchy::is_unified() {
                hierarchy::MOUNT
            } else {
                hierarchy::HYBRID
            };
            let own = Path::new(top).join(own);
            let tree = super::mounts::clone_host(&own, true, false)?;
            mount::set_attr(tree.as_fd(), true, &mount.attr)?;
            Ok(tree)
        }
        result => Ok(result?),
    }
}

/// What a container without a cgroup namespace sees of v1: the directory below its mount of type
/// `cgroup`, and the caller's cgroup that is bound there.
pub fn binds() -> Result<Vec<(String, PathBuf)>> {
    let all = hierarchies()?.into_iter();
    Ok(all.map(|h| (h.name, h.own)).collect())
}

/// A v1 hierarchy as it is mounted on the host.
struct Hierarchy {
    /// Name of its directory, as "cpu,cpuacct" or "systemd".
    name: String,
    /// Mount options: controllers, or "name=systemd".
    options: Vec<String>,
    /// The caller's cgroup in it, as the host has it.
    own: PathBuf,
}

impl Hierarchy {
    fn new(mountpoint: &Path, options: Vec<String>, own: PathBuf) -> Self {
        let name = mountpoint.file_name().map_or_else(
            || options.join(","),
            |name| name.to_string_lossy().into_owned(),
        );
        Self { name, options, own }
    }
}

/// The hierarchies in which init has just joined its cgroups; none when that does
/// not say what the machine has.
fn planned(plan: &Plan) -> Vec<Hierarchy> {
    let all = plan.cgroup.joined().iter();
    all.map(|joined| {
        Hierarchy::new(
            &joined.mount,
            joined.controllers.clone(),
            joined.dir.clone(),
        )
    })
    .collect()
}

fn one(
    cover: BorrowedFd<'_>,
    mount: &Mount,
    hierarchy: &Hierarchy,
    own_namespace: bool,
    used: &mut Used,
) -> Result<()> {
    let name = Path::new(&hierarchy.name);
    path::mkdir_at(cover, name, 0o755)?;
    let tree = if own_namespace {
        let fs = FsContext::open("cgroup")?;
        fs.set("source", "cgroup")?;
        for option in &hierarchy.options {
            match option.split_once('=') {
                Some((key, value)) => {
                    fs.flag("none")?;
                    fs.set(key, value)?;
                }
                None => fs.flag(option)?,
            }
        }
        fs.mount_using(mount.attr.set, used)?
    } else {
        clone(hierarchy)?
    };
    mount::attach_at(tree.as_fd(), cover, name)?;
    used.put(tree);
    if hierarchy.options.len() > 1 {
        for controller in &hierarchy.options {
            path::symlink(name, cover, Path::new(controller))?;
        }
    }
    Ok(())
}

/// The caller's cgroup in `hierarchy`, as a tree. The one of systemd is joined only if it
/// can be: where it was not made, the caller is where it was before.
fn clone(hierarchy: &Hierarchy) -> Result<OwnedFd> {
    match super::mounts::clone_host(&hierarchy.own, false, false) {
        Err(e) if e.errno() == Some(path::ENOENT) => {
            let mut now = hierarchies()?.into_iter();
            let Some(found) = now.find(|h| h.options == hierarchy.options) else {
                return Err(e);
            };
            super::mounts::clone_host(&found.own, false, false)
        }
        result => result,
    }
}

/// The v1 hierarchies of the machine, with the caller's cgroup in each.
fn hierarchies() -> Result<Vec<Hierarchy>> {
    let read = |path: &str| rrun_sys::fd::read_file(Path::new(path));
    let mountinfo = read("/proc/self/mountinfo")?;
    let own = read("/proc/self/cgroup")?;
    let mut list: Vec<Hierarchy> = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(cgroup)) = (parts.next(), parts.next()) else {
            continue;
        };
        if controllers.is_empty() {
            continue;
        }
        let options: Vec<String> = controllers.split(',').map(str::to_owned).collect();
        if let Some(mountpoint) = mountpoint(&mountinfo, &options[0]) {
            let inside = cgroup.strip_prefix('/').unwrap_or(cgroup);
            let own = mountpoint.join(inside);
            list.push(Hierarchy::new(&mountpoint, options, own));
        }
    }
    Ok(list)
}

/// Where the v1 hierarchy with `option` is mounted: of several places the
/// shortest, since the container's own root may show the host's mounts again.
fn mountpoint(mountinfo: &str, option: &str) -> Option<PathBuf> {
    let places = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        if right.next() != Some("cgroup") || !right.nth(1)?.split(',').any(|o| o == option) {
            return None;
        }
        left.split(' ').nth(4)
    });
    places.min_by_key(|place| place.len()).map(PathBuf::from)
}
