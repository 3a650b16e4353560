//! Sources of id-mapped mounts below the container's root, in a user namespace:
//! they are there only once the mounts before them are made, and may be mapped
//! only by the parent. So init asks for each in its turn.

use super::{map_tree, mounts};
use crate::plan::{Mount, Plan, Source, namespaces};
use crate::sync::{self, Channel, Message};
use crate::{Context, Error, Result};
use rrun_sys::process::{self, Clone};
use rrun_sys::{ns, path, socket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Whether the parent opens the source of `mount` when init asks for it.
pub fn is_late(plan: &Plan, mount: &Mount) -> bool {
    let inside = |m: &Mount| matches!(&m.source, Source::Bind { path, .. } if path.starts_with(&plan.rootfs));
    plan.namespaces.user() && mount.idmap.is_some() && inside(mount)
}

/// Init's side: the tree for `mount`.
pub fn fetch(mount: &Mount, channel: &Channel) -> Result<OwnedFd> {
    channel.send(&Message::Tree(mount.index))?;
    Ok(socket::receive_fd(channel.as_fd())?)
}

/// The parent's side: opens the source of `mounts[index]` in the mount namespace of init
/// (process `pid`), maps its ids, and sends it to init.
pub fn serve(plan: &Plan, pid: i32, channel: &Channel, index: usize) -> Result<()> {
    let mount = plan.mounts.iter().find(|m| m.index == index);
    let mount = mount
        .filter(|m| is_late(plan, m))
        .ok_or_else(|| Error::Remote(format!("init asks for the source of mounts[{index}]")))?;
    let what = || format!("map ids of mounts[{index}]");
    let maps = mount.idmap.as_ref().and_then(|i| i.maps.as_ref());
    let user = match maps {
        Some((uids, gids)) => crate::idmap::user_namespace(uids, gids).with_context(what)?,
        None => crate::idmap::of_process(pid)?,
    };
    let mounts = path::open(Path::new(&format!("/proc/{pid}/ns/mnt")), path::O_RDONLY)?;
    // In a process of its own: this one needs its mount namespace.
    let (ours, theirs) = sync::pair()?;
    let helper = match process::clone3(0, None)? {
        Clone::Child => {
            if let Err(error) = open(mount, &user, &mounts, channel) {
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
        Some(Message::Error(text)) => Err(Error::Remote(text)).with_context(what),
        Some(other) => Err(Error::Remote(format!("unexpected message {other:?}"))),
    }
}

fn open(mount: &Mount, user: &OwnedFd, mounts: &OwnedFd, channel: &Channel) -> Result<()> {
    let Source::Bind {
        path,
        recursive,
        nofollow,
    } = &mount.source
    else {
        return Ok(());
    };
    ns::setns(mounts.as_fd(), namespaces::MOUNT).context("join init's mount namespace")?;
    let tree = mounts::clone_host(path, *recursive, *nofollow)?;
    map_tree(mount, &tree, user.as_fd())?;
    Ok(socket::send_fds(channel.as_fd(), b"t", &[tree.as_fd()])?)
}
