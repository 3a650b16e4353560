//! Which namespaces are made, and which are joined.

use crate::{Error, Result};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use std::fmt::Write;
use std::path::PathBuf;

/// CLONE_NEWPID.
pub const PID: i32 = 0x2000_0000;
/// CLONE_NEWNET.
pub const NET: i32 = 0x4000_0000;
/// CLONE_NEWNS.
pub const MOUNT: i32 = 0x0002_0000;
/// CLONE_NEWIPC.
pub const IPC: i32 = 0x0800_0000;
/// CLONE_NEWUTS.
pub const UTS: i32 = 0x0400_0000;
/// CLONE_NEWUSER.
pub const USER: i32 = 0x1000_0000;
/// CLONE_NEWCGROUP.
pub const CGROUP: i32 = 0x0200_0000;
/// CLONE_NEWTIME.
pub const TIME: i32 = 0x80;
/// CLONE_PARENT: the child of a clone becomes its sibling.
pub const CLONE_PARENT: i32 = 0x8000;

/// The name of a kind of namespace below /proc/PID/ns.
pub fn file(flag: i32) -> &'static str {
    match flag {
        PID => "pid",
        NET => "net",
        MOUNT => "mnt",
        IPC => "ipc",
        UTS => "uts",
        USER => "user",
        CGROUP => "cgroup",
        _ => "time",
    }
}

/// Namespaces of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `CLONE_NEW*` flags of those to make.
    pub new: i32,
    /// Those to join: flag and path.
    pub join: Vec<(i32, PathBuf)>,
    /// Text for /proc/PID/uid_map; empty without a new user namespace.
    pub uid_map: String,
    /// Text for /proc/PID/gid_map.
    pub gid_map: String,
    /// Text for /proc/PID/timens_offsets; empty for none.
    pub time_offsets: String,
}

impl Namespaces {
    /// From `linux.namespaces`, mappings and offsets. Assumes a validated specification.
    pub fn from_spec(spec: &Spec) -> Result<Self> {
        let mut namespaces = Self::default();
        let Some(linux) = spec.linux() else {
            return Ok(namespaces);
        };
        for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
            let flag = flag(namespace.typ());
            match namespace
                .path()
                .as_ref()
                .filter(|p| !p.as_os_str().is_empty())
            {
                None => namespaces.new |= flag,
                Some(path) if path.is_absolute() => namespaces.join.push((flag, path.clone())),
                Some(path) => {
                    return Err(Error::config(
                        format!("linux.namespaces[{index}].path"),
                        format!("{} is not absolute", path.display()),
                    ));
                }
            }
        }
        // The user namespace is joined first: it owns the rights to join the others.
        namespaces.join.sort_by_key(|(flag, _)| *flag != USER);
        if namespaces.new & USER != 0 {
            namespaces.uid_map = map(linux.uid_mappings().as_deref());
            namespaces.gid_map = map(linux.gid_mappings().as_deref());
        }
        for (clock, offset) in linux.time_offsets().iter().flatten() {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::config(
                    format!("linux.timeOffsets[{clock:?}]"),
                    "is not one of monotonic, boottime",
                ));
            }
            let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            let _ = writeln!(namespaces.time_offsets, "{clock} {secs} {nanos}");
        }
        Ok(namespaces)
    }

    /// Whether the container has a namespace of kind `flag` that is not the caller's.
    pub fn has(&self, flag: i32) -> bool {
        self.new & flag != 0 || self.join.iter().any(|(f, _)| *f == flag)
    }

    /// `namespace_paths` of state.json: those of process `pid`, under runc's names.
    pub fn paths(&self, pid: i32) -> std::collections::BTreeMap<String, PathBuf> {
        const FILES: [(i32, &str, &str); 8] = [
            (CGROUP, "NEWCGROUP", "cgroup"),
            (IPC, "NEWIPC", "ipc"),
            (NET, "NEWNET", "net"),
            (MOUNT, "NEWNS", "mnt"),
            (PID, "NEWPID", "pid"),
            (TIME, "NEWTIME", "time"),
            (USER, "NEWUSER", "user"),
            (UTS, "NEWUTS", "uts"),
        ];
        let path = |file: &str| PathBuf::from(format!("/proc/{pid}/ns/{file}"));
        FILES
            .iter()
            .map(|(_, name, file)| ((*name).to_owned(), path(file)))
            .collect()
    }

    /// Whether the container is in another user namespace than the caller.
    pub fn user(&self) -> bool {
        self.has(USER)
    }
}

/// `CLONE_NEW*` flag of a kind of namespace.
pub fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => MOUNT,
        LinuxNamespaceType::Cgroup => CGROUP,
        LinuxNamespaceType::Uts => UTS,
        LinuxNamespaceType::Ipc => IPC,
        LinuxNamespaceType::User => USER,
        LinuxNamespaceType::Pid => PID,
        LinuxNamespaceType::Network => NET,
        LinuxNamespaceType::Time => TIME,
    }
}

pub(super) fn map(mappings: Option<&[LinuxIdMapping]>) -> String {
    let mut text = String::new();
    for m in mappings.into_iter().flatten() {
        let _ = writeln!(text, "{} {} {}", m.container_id(), m.host_id(), m.size());
    }
    text
}
