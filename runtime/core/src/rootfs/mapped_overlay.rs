//! An overlay whose lower layers are id-mapped: one unpacked image serves containers of any user
//! namespace. The upper directory is not mapped: overlayfs makes files there as the host's root,
//! which such a mount has no id for (kernel 5.19), so what is in it has the host's ids already.
//!
//! Until kernel 6.15 a layer must be attached somewhere in the caller's mount namespace. So a
//! child makes a mount namespace, lays the layers out in it, and hands over the finished overlay,
//! which keeps its layers when that namespace is gone.

use super::mounts;
use crate::plan::{Mount, Source, namespaces};
use crate::sync::{self, Channel, Message};
use crate::{Context, Error, Result};
use rrun_sys::mount::{self, FsContext, MountAttr, attr};
use rrun_sys::process::{self, Clone};
use rrun_sys::{path, socket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Makes the overlay of `mount`, not yet attached. `place` is an empty directory to work in.
pub fn make(mount: &Mount, place: &Path) -> Result<OwnedFd> {
    let maps = mount.idmap.as_ref().and_then(|i| i.maps.as_ref());
    let (uids, gids) = maps.ok_or_else(|| {
        let field = format!("mounts[{}].uidMappings", mount.index);
        Error::config(
            field,
            "are missing: an overlay has its layers mapped by its own maps",
        )
    })?;
    let user = crate::idmap::user_namespace(uids, gids)?;
    let (ours, theirs) = sync::pair()?;
    let helper = match process::clone3(namespaces::MOUNT, None)? {
        Clone::Child => {
            let told = match lay_out(mount, user.as_fd(), place) {
                Ok(tree) => hand_over(&theirs, &tree),
                Err(error) => theirs.send(&Message::Error(error.chain())),
            };
            process::exit_now(i32::from(told.is_err()))
        }
        Clone::Parent { pid, .. } => pid,
    };
    drop(theirs);
    let answer = match ours.receive() {
        Ok(Some(Message::Ready)) => socket::receive_fd(ours.as_fd()).map_err(Error::from),
        Ok(Some(Message::Error(text))) => Err(Error::Remote(text)),
        Ok(other) => Err(Error::Remote(format!("unexpected message {other:?}"))),
        Err(error) => Err(error),
    };
    process::wait(helper, false)?;
    answer.context("make an overlay of id-mapped layers")
}

fn hand_over(channel: &Channel, tree: &OwnedFd) -> Result<()> {
    channel.send(&Message::Ready)?;
    Ok(socket::send_fds(channel.as_fd(), b"t", &[tree.as_fd()])?)
}

/// In the child: the layers on a tmpfs at `place`, by short names, and the overlay of them.
fn lay_out(mount: &Mount, user: BorrowedFd<'_>, place: &Path) -> Result<OwnedFd> {
    let Source::Filesystem { source, data, .. } = &mount.source else {
        return Err(Error::config("mounts", "an overlay is a file system"));
    };
    let private = MountAttr {
        propagation: crate::plan::mounts::MS_PRIVATE,
        ..MountAttr::default()
    };
    mount::set_attr_at(c"/", true, &private)?;
    let base = FsContext::open("tmpfs")?.mount(0)?;
    let target = path::open(place, path::O_PATH | path::O_DIRECTORY)?;
    mount::attach(base.as_fd(), target.as_fd())?;
    path::chdir_fd(base.as_fd())?;
    let mut names = Vec::new();
    for (key, value) in data {
        if key != "lowerdir" {
            continue;
        }
        for layer in mounts::split_layers(value.as_deref().unwrap_or_default()) {
            let name = names.len().to_string();
            attach_mapped(Path::new(&layer), Path::new(&name), user)
                .with_context(|| format!("map ids of layer {layer}"))?;
            names.push(name);
        }
    }
    let mut data = data.clone();
    data.retain(|(key, _)| key != "lowerdir");
    data.insert(0, ("lowerdir".to_owned(), Some(names.join(":"))));
    mounts::overlay(mount, source, &data, place)
}

fn attach_mapped(layer: &Path, name: &Path, user: BorrowedFd<'_>) -> Result<()> {
    let tree = mounts::clone_host(layer, false, false)?;
    let map = MountAttr {
        set: attr::IDMAP,
        userns_fd: user.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    mount::set_attr(tree.as_fd(), false, &map)
        .context("its file system may not know id-mapped mounts (mount_setattr(2))")?;
    std::fs::create_dir(name).map_err(|e| Error::file("mkdir", name, e))?;
    let target = path::open(name, path::O_PATH | path::O_DIRECTORY)?;
    Ok(mount::attach(tree.as_fd(), target.as_fd())?)
}
