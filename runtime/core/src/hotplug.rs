//! Mounts added to and removed from a container that runs (crun's `mounts`).
//!
//! A process of ours joins the container's namespaces. What belongs to the host (bind sources, file
//! systems of devices or of layers) is opened before, in a mount namespace of its own.

use crate::container::{Container, Status};
use crate::plan::{Mount, Namespaces, Plan, Source, mounts as options, namespaces};
use crate::rootfs::{Trees, mounts};
use crate::sync::{self, Message};
use crate::{Context, Error, Result};
use rrun_sys::mount::{self, MountAttr};
use rrun_sys::process::{self, Clone};
use rrun_sys::{cred, ns, path};
use std::os::fd::AsFd;
use std::path::Path;

/// Adds `list`, in order. The first failure ends it; what was added before stays.
pub fn add(container: &Container, list: &[oci_spec::runtime::Mount]) -> Result<()> {
    let plan = plan(container)?;
    let bundle = &container.record.bundle;
    let mounts = list.iter().enumerate();
    let mounts: Vec<Mount> = mounts
        .map(|(index, mount)| options::plan(index, mount, bundle))
        .collect::<Result<_>>()?;
    for mount in &mounts {
        check(mount)?;
    }
    ns::unshare(namespaces::MOUNT)?;
    let slave = MountAttr {
        propagation: options::MS_SLAVE,
        ..MountAttr::default()
    };
    mount::set_attr_at(c"/", true, &slave)?;
    let mut trees = Trees::new();
    for mount in mounts.iter().filter(|m| is_hosts(m)) {
        let tree = open(container, mount)
            .with_context(|| format!("open the source of mounts[{}]", mount.index))?;
        trees.insert(mount.index, tree);
    }
    inside(container, || {
        let root = path::open(Path::new("/"), path::O_PATH | path::O_DIRECTORY)?;
        for mount in &mounts {
            attach(&plan, root.as_fd(), mount, &mut trees)
                .with_context(|| format!("error mounting to {}", mount.destination.display()))?;
        }
        Ok(())
    })
}

/// Unmounts what is at the destinations of `list`.
pub fn remove(container: &Container, list: &[oci_spec::runtime::Mount]) -> Result<()> {
    plan(container)?;
    let own = path::open(Path::new("/proc"), path::O_PATH | path::O_DIRECTORY)?;
    inside(container, || {
        let root = path::open(Path::new("/"), path::O_PATH | path::O_DIRECTORY)?;
        for mount in list {
            let destination = mount.destination();
            let what = || format!("error unmounting {}", destination.display());
            let target =
                path::open_in_root(root.as_fd(), destination, path::O_PATH).with_context(what)?;
            // By descriptor: a name could lead elsewhere by now.
            mount::detach_fd(own.as_fd(), target.as_fd()).with_context(what)?;
        }
        Ok(())
    })
}

fn plan(container: &Container) -> Result<Plan> {
    match container.status()? {
        Status::Created | Status::Running | Status::Paused => {}
        status => {
            let text = format!(
                "cannot change the mounts of a {} container",
                status.as_str()
            );
            return Err(Error::State(text.into()));
        }
    }
    let plan = container.plan()?;
    if plan.namespaces.has(namespaces::MOUNT) {
        Ok(plan)
    } else {
        Err(Error::State(
            "the container has no mount namespace of its own".into(),
        ))
    }
}

fn check(mount: &Mount) -> Result<()> {
    let field = |name: &str| format!("mounts[{}].{name}", mount.index);
    if mount.destination == Path::new("/") {
        return Err(Error::config(
            field("destination"),
            "the root of a running container cannot be replaced",
        ));
    }
    if mount.idmap.is_some() && mount.idmap.as_ref().is_none_or(|m| m.maps.is_none()) {
        return Err(Error::config(
            field("uidMappings"),
            "are missing: a mount that is added names its maps",
        ));
    }
    Ok(())
}

/// Whether the source is found on the host rather than made in the container.
fn is_hosts(mount: &Mount) -> bool {
    const INSIDE: [&str; 5] = ["proc", "sysfs", "tmpfs", "mqueue", "devpts"];
    match &mount.source {
        Source::Bind { .. } => true,
        Source::Filesystem { kind, .. } => !INSIDE.contains(&kind.as_str()),
        Source::Cgroup { .. } | Source::Remount { .. } => false,
    }
}

fn open(container: &Container, mount: &Mount) -> Result<std::os::fd::OwnedFd> {
    match &mount.source {
        Source::Bind {
            path,
            recursive,
            nofollow,
        } => {
            let tree = mounts::clone_host(path, *recursive, *nofollow)?;
            crate::rootfs::map_in_turn(mount, &tree)?;
            Ok(tree)
        }
        // Its place is needed by old kernels only, and this mount namespace is nobody else's.
        _ => mounts::make(mount, &container.dir),
    }
}

fn attach(
    plan: &Plan,
    root: std::os::fd::BorrowedFd<'_>,
    mount: &Mount,
    trees: &mut Trees,
) -> Result<()> {
    let Some(tree) = trees.remove(&mount.index) else {
        return mounts::mount(plan, root, mount, trees, &mut mounts::Open::default()).map(drop);
    };
    mounts::place(plan, root, mount, &tree)
}

/// Runs `work` in a process that is in the container's namespaces.
fn inside(container: &Container, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let init = container
        .init()?
        .ok_or_else(|| Error::State("container not running".into()))?;
    let namespaces = Namespaces::from_spec(&container.spec()?)?;
    let joined = namespaces.join.iter().fold(0, |all, (flag, _)| all | flag);
    let flags = namespaces.new | joined;
    if flags & namespaces::PID != 0 {
        ns::setns(init.as_fd(), namespaces::PID).context("join the pid namespace")?;
    }
    cred::set_dumpable(false)?;
    let (ours, theirs) = sync::pair()?;
    let helper = match process::clone3(0, None)? {
        Clone::Child => {
            let joined = || -> Result<()> {
                ns::setns(init.as_fd(), flags & !namespaces::PID)
                    .context("join the container's namespaces")?;
                if flags & namespaces::USER != 0 {
                    cred::set_gid(0)?;
                    cred::set_uid(0)?;
                    cred::set_dumpable(false)?;
                }
                work()
            };
            if let Err(error) = joined() {
                let _ = theirs.send(&Message::Error(error.chain()));
            }
            process::exit_now(0)
        }
        Clone::Parent { pid, .. } => pid,
    };
    drop(theirs);
    let answer = ours.receive();
    process::wait(helper, false)?;
    match answer? {
        None => Ok(()),
        Some(Message::Error(text)) => Err(Error::Remote(text)),
        Some(other) => Err(Error::Remote(format!("unexpected message {other:?}"))),
    }
}
