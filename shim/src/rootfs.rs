//! The mounts that containerd asks for on `<bundle>/rootfs`.

use crate::io::at;
use crate::mountinfo;
use rrun_task_api::Status;
use rrun_task_api::pb::types::Mount;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Mount data of mount(2) ends at a page.
const MAX_DATA: usize = 4095;

/// Mounts them in order; undoes what was done if one fails.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), Status> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(rootfs).map_err(at("make rootfs", rootfs))?;
    for one in mounts {
        if let Err(error) = mount_one(one, rootfs) {
            unmount_all(rootfs)?;
            return Err(error);
        }
    }
    Ok(())
}

/// Unmounts whatever is at or below the rootfs; nothing there is fine.
pub fn unmount_all(rootfs: &Path) -> Result<(), Status> {
    let points = mountinfo::below(rootfs).map_err(at("find mounts of", rootfs))?;
    let mut first = None;
    for point in points {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = unmount(&point, flags) {
            first.get_or_insert(at("unmount", &point)(error));
        }
    }
    first.map_or(Ok(()), Err)
}

fn mount_one(wanted: &Mount, rootfs: &Path) -> Result<(), Status> {
    let target = target(wanted, rootfs)?;
    let Parsed {
        flags,
        propagation,
        mut data,
    } = parse(&wanted.options);
    let mut restore = None;
    if wanted.r#type == "overlay" && data.len() > MAX_DATA {
        // Many layers: name them from the directory that all have in common.
        let (dir, short) = shorten(&data).ok_or_else(|| {
            Status::invalid("overlay options are longer than a page, and so are short ones")
        })?;
        restore = Some(std::env::current_dir().map_err(at("read the directory of", rootfs))?);
        std::env::set_current_dir(&dir).map_err(at("enter", &dir))?;
        data = short;
    }
    let text = CString::new(data).map_err(|_| Status::invalid("a NUL in a mount's options"))?;
    let bind = flags.contains(MountFlags::BIND);
    let kind = if bind { "" } else { &wanted.r#type };
    let first = if bind {
        flags & (MountFlags::BIND | MountFlags::REC)
    } else {
        flags
    };
    let mut result = mount(&wanted.source, &target, kind, first, text.as_c_str());
    if let Some(dir) = restore {
        std::env::set_current_dir(&dir).map_err(at("return to", &dir))?;
    }
    let beyond = flags - (MountFlags::BIND | MountFlags::REC);
    if bind && result.is_ok() && !beyond.is_empty() {
        result = rustix::mount::mount_remount(&target, MountFlags::BIND | beyond, c"");
    }
    if result.is_ok() && !propagation.is_empty() {
        result = mount_change(&target, propagation);
    }
    result.map_err(|error| {
        Status::internal(format!(
            "mount {} {:?} on {}: {error}",
            wanted.r#type,
            wanted.source,
            target.display()
        ))
    })
}

/// Where a mount goes: the rootfs, or below it where it names a target.
fn target(wanted: &Mount, rootfs: &Path) -> Result<PathBuf, Status> {
    let below = wanted.target.trim_start_matches('/');
    if Path::new(below)
        .components()
        .any(|c| matches!(c, std::path::Component::ParentDir))
    {
        return Err(Status::invalid(format!(
            "mount target {:?} leaves the rootfs",
            wanted.target
        )));
    }
    Ok(if below.is_empty() {
        rootfs.to_owned()
    } else {
        rootfs.join(below)
    })
}

struct Parsed {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: String,
}

fn parse(options: &[String]) -> Parsed {
    let mut flags = MountFlags::empty();
    let mut propagation = MountPropagationFlags::empty();
    let mut data = Vec::new();
    for option in options {
        let known = match option.as_str() {
            "defaults" | "loop" => Some((MountFlags::empty(), true)),
            "ro" => Some((MountFlags::RDONLY, true)),
            "rw" => Some((MountFlags::RDONLY, false)),
            "bind" => Some((MountFlags::BIND, true)),
            "rbind" => Some((MountFlags::BIND | MountFlags::REC, true)),
            "nosuid" => Some((MountFlags::NOSUID, true)),
            "suid" => Some((MountFlags::NOSUID, false)),
            "nodev" => Some((MountFlags::NODEV, true)),
            "dev" => Some((MountFlags::NODEV, false)),
            "noexec" => Some((MountFlags::NOEXEC, true)),
            "exec" => Some((MountFlags::NOEXEC, false)),
            "sync" => Some((MountFlags::SYNCHRONOUS, true)),
            "async" => Some((MountFlags::SYNCHRONOUS, false)),
            "dirsync" => Some((MountFlags::DIRSYNC, true)),
            "noatime" => Some((MountFlags::NOATIME, true)),
            "atime" => Some((MountFlags::NOATIME, false)),
            "nodiratime" => Some((MountFlags::NODIRATIME, true)),
            "diratime" => Some((MountFlags::NODIRATIME, false)),
            "relatime" => Some((MountFlags::RELATIME, true)),
            "norelatime" => Some((MountFlags::RELATIME, false)),
            "strictatime" => Some((MountFlags::STRICTATIME, true)),
            "nostrictatime" => Some((MountFlags::STRICTATIME, false)),
            _ => None,
        };
        match (known, propagation_of(option)) {
            (Some((flag, on)), _) => flags.set(flag, on),
            (None, Some(flag)) => propagation |= flag,
            (None, None) => data.push(option.as_str()),
        }
    }
    Parsed {
        flags,
        propagation,
        data: data.join(","),
    }
}

fn propagation_of(option: &str) -> Option<MountPropagationFlags> {
    let (recursive, name) = match option.strip_prefix('r') {
        Some(name) if !option.starts_with("ro") => (MountPropagationFlags::REC, name),
        _ => (MountPropagationFlags::empty(), option),
    };
    let kind = match name {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | recursive)
}

/// Overlay options with all directories relative to the one that they share.
fn shorten(data: &str) -> Option<(PathBuf, String)> {
    let is_dir = |key: &str| matches!(key, "lowerdir" | "upperdir" | "workdir");
    let split = |option: &str| {
        option
            .split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
    };
    let options: Vec<_> = data
        .split(',')
        .map(|o| split(o).ok_or(o.to_owned()))
        .collect();
    let dirs = || {
        options
            .iter()
            .flatten()
            .filter(|(key, _)| is_dir(key))
            .flat_map(|(_, value)| value.split(':').filter(|dir| dir.starts_with('/')))
    };
    let mut common = PathBuf::from(dirs().next()?).parent()?.to_owned();
    while !dirs().all(|dir| Path::new(dir).starts_with(&common)) {
        common.pop();
    }
    let relative = |dir: &str| {
        let path = Path::new(dir).strip_prefix(&common);
        path.map_or(dir.to_owned(), |path| path.to_string_lossy().into_owned())
    };
    let short: Vec<String> = options
        .iter()
        .map(|option| match option {
            Ok((key, value)) if is_dir(key) => {
                let dirs: Vec<_> = value.split(':').map(relative).collect();
                format!("{key}={}", dirs.join(":"))
            }
            Ok((key, value)) => format!("{key}={value}"),
            Err(plain) => plain.clone(),
        })
        .collect();
    let short = short.join(",");
    (short.len() <= MAX_DATA).then_some((common, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_into_flags_and_data() {
        let options = ["ro", "rbind", "rprivate", "rw", "lowerdir=/a:/b"].map(str::to_owned);
        let parsed = parse(&options);
        assert_eq!(parsed.flags, MountFlags::BIND | MountFlags::REC);
        let expected = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        assert_eq!(parsed.propagation, expected);
        assert_eq!(parsed.data, "lowerdir=/a:/b");
    }

    #[test]
    fn many_layers_fit_when_named_from_their_common_directory() {
        let dirs: Vec<_> = (0..120)
            .map(|n| format!("/var/lib/x/snapshots/{n}/fs"))
            .collect();
        let data = format!("workdir=/var/lib/x/snapshots/w,lowerdir={}", dirs.join(":"));
        let (dir, short) = shorten(&data).unwrap();
        assert_eq!(dir, PathBuf::from("/var/lib/x/snapshots"));
        assert!(
            short.starts_with("workdir=w,lowerdir=0/fs:1/fs:"),
            "{short}"
        );
    }

    #[test]
    fn a_target_never_leaves_the_rootfs() {
        let mount = |target: &str| Mount {
            target: target.into(),
            ..Mount::default()
        };
        assert!(target(&mount("/../etc"), Path::new("/b/rootfs")).is_err());
        let inside = target(&mount("/etc"), Path::new("/b/rootfs")).unwrap();
        assert_eq!(inside, PathBuf::from("/b/rootfs/etc"));
    }
}
