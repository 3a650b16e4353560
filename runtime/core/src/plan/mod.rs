//! What will be done, as data: made from config.json without IO, so that it can
//! be tested without privileges and shown to a person before it is executed.

pub mod mounts;
pub mod namespaces;

use crate::{Context, Error, Result, cgroup, spec};
pub use mounts::{Mount, Source};
pub use namespaces::Namespaces;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use std::path::{Path, PathBuf};

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Do not pivot_root: move the root mount (`--no-pivot`).
    pub no_pivot: bool,
    /// Keep the caller's session keyring (`--no-new-keyring`).
    pub no_new_keyring: bool,
    /// How many descriptors from 3 up the container inherits (`--preserve-fds`).
    pub preserve_fds: u32,
    /// Whether the container can tell systemd that it is ready.
    pub notify: bool,
    /// Where the terminal's master is sent.
    pub console: Option<Console>,
    /// Who makes cgroups.
    pub manager: cgroup::Manager,
}

/// Where the master of the container's terminal is sent.
#[derive(Debug, Clone)]
pub enum Console {
    /// A unix socket (`--console-socket`).
    Path(PathBuf),
    /// This socket: the command itself relays the terminal (`run` in the foreground).
    Socket(std::sync::Arc<std::os::fd::OwnedFd>),
}

impl Console {
    /// A connected socket.
    pub fn open(&self) -> Result<std::os::fd::OwnedFd> {
        match self {
            Self::Path(path) => rrun_sys::socket::connect_unix(path)
                .with_context(|| format!("connect to console socket {}", path.display())),
            Self::Socket(fd) => fd.try_clone().map_err(|e| Error::file("dup", "console", e)),
        }
    }
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Major and minor number.
    pub number: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// Owner and group in the container.
    pub owner: (u32, u32),
    /// Whether `linux.devices` names it; the others every container has.
    pub configured: bool,
}

/// The whole plan of one container.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Container id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// A file system mounted onto `rootfs` first (destination "/").
    pub root_mount: Option<Mount>,
    /// Namespaces to make and to join.
    pub namespaces: Namespaces,
    /// Mounts in order, without that on "/".
    pub mounts: Vec<Mount>,
    /// Device nodes; empty when /dev is the host's.
    pub devices: Vec<Device>,
    /// Whether the links and the console in /dev are made (not when /dev is bind-mounted).
    pub setup_dev: bool,
    /// `MS_*` propagation of the container's root, and whether recursive.
    pub propagation: (u64, bool),
    /// The container's cgroup.
    pub cgroup: cgroup::Plan,
    /// Intel RDT.
    pub rdt: Option<crate::rdt::Plan>,
    /// Interfaces that move into the container.
    pub net_devices: Vec<crate::netdev::NetDevice>,
    /// `net.ipv4.x` as path below /proc/sys, and value; sorted.
    pub sysctls: Vec<(PathBuf, String)>,
    /// The command line's part.
    pub options: Options,
    /// The configuration itself, for what needs no preparation.
    pub spec: Spec,
}

/// A path of the configuration, made absolute below `base`; without ".", which CRIU cannot name.
fn absolute(base: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() {
        path.to_owned()
    } else {
        base.join(path).components().collect()
    }
}

impl Plan {
    /// Plans container `id` of the absolute directory `bundle`. `rootless`: the
    /// caller is not root on the host.
    pub fn new(
        id: &str,
        bundle: &Path,
        spec: Spec,
        options: Options,
        rootless: bool,
    ) -> Result<Self> {
        spec::validate(&spec)?;
        let root = spec.root().as_ref().expect("validated: root is there");
        let rootfs = absolute(bundle, root.path());
        let namespaces = Namespaces::from_spec(&spec)?;
        let mut mounts = mounts::from_spec(&spec, bundle)?;
        for mount in &mut mounts {
            // Some callers name the destination as the host sees it (runc's rule).
            if let Ok(inside) = mount.destination.strip_prefix(&rootfs) {
                mount.destination = Path::new("/").join(inside);
            }
        }
        let root_mount = take_root_mount(&mut mounts)?;
        let linux = spec.linux().as_ref();
        let setup_dev = !mounts
            .iter()
            .any(|m| m.destination == Path::new("/dev") && matches!(m.source, Source::Bind { .. }));
        let devices = if setup_dev {
            devices(&spec)?
        } else {
            Vec::new()
        };
        let propagation = propagation(linux.and_then(|l| l.rootfs_propagation().as_deref()))?;
        let mut cgroup = cgroup::Plan::from_spec(&cgroup::Request {
            id,
            path: linux.and_then(|l| l.cgroups_path().as_deref()),
            resources: linux.and_then(|l| l.resources().as_ref()),
            manager: options.manager,
            rootless,
        })?;
        if let Some(annotations) = spec.annotations() {
            cgroup.annotate(annotations)?;
        }
        cgroup.owner = cgroup_owner(&spec, &namespaces, &mounts);
        let sysctls = sysctls(&spec, &namespaces)?;
        let net_devices = crate::netdev::from_spec(&spec, namespaces.has(namespaces::NET))?;
        Ok(Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs,
            root_mount,
            namespaces,
            mounts,
            devices,
            setup_dev,
            propagation,
            cgroup,
            rdt: crate::rdt::Plan::from_spec(&spec)?,
            net_devices,
            sysctls,
            options,
            spec,
        })
    }

    /// Whether mounts of the host stay shared with it (`rootfsPropagation` shared), so that
    /// what the container mounts on a shared bind mount is seen there.
    pub fn shares_mounts(&self) -> bool {
        self.propagation.0 == mounts::MS_SHARED && self.namespaces.has(namespaces::MOUNT)
    }

    /// Whether the root file system is made read-only.
    pub fn readonly_root(&self) -> bool {
        self.spec
            .root()
            .as_ref()
            .and_then(oci_spec::runtime::Root::readonly)
            .unwrap_or(false)
    }
}

/// The user of the process, as the host's id, where the cgroups are mounted writable in a cgroup
/// namespace of the container's own (runtime-spec, config-linux.md#cgroup-ownership).
fn cgroup_owner(spec: &Spec, namespaces: &Namespaces, mounts: &[Mount]) -> Option<u32> {
    let writable = mounts.iter().any(|m| {
        matches!(m.source, Source::Cgroup { .. })
            && m.destination == Path::new("/sys/fs/cgroup")
            && m.attr.set & rrun_sys::mount::attr::RDONLY == 0
    });
    if !writable || namespaces.new & namespaces::CGROUP == 0 {
        return None;
    }
    let user = spec.process().as_ref()?.user().uid();
    if !namespaces.user() {
        return Some(user).filter(|user| *user != 0);
    }
    // Of a namespace that is joined the map is not known.
    let maps = spec.linux().as_ref()?.uid_mappings().as_ref()?;
    maps.iter().find_map(|map| {
        let offset = user.checked_sub(map.container_id())?;
        (offset < map.size()).then(|| map.host_id().checked_add(offset))?
    })
}

/// Takes the mount whose destination is "/" out of the list.
fn take_root_mount(mounts: &mut Vec<Mount>) -> Result<Option<Mount>> {
    let Some(index) = mounts.iter().position(|m| m.destination == Path::new("/")) else {
        return Ok(None);
    };
    let mount = mounts.remove(index);
    if mounts.iter().any(|m| m.destination == Path::new("/")) {
        return Err(Error::config("mounts", "more than one mount on \"/\""));
    }
    Ok(Some(mount))
}

/// Nodes that every container has (runtime-spec, config-linux.md#default-devices).
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn devices(spec: &Spec) -> Result<Vec<Device>> {
    let mut devices: Vec<Device> = Vec::with_capacity(8);
    let configured = spec.linux().as_ref().and_then(|l| l.devices().as_ref());
    for (index, device) in configured.into_iter().flatten().enumerate() {
        devices.push(device_node(device, &format!("linux.devices[{index}]"))?);
    }
    for (path, major, minor) in DEFAULT_DEVICES {
        if devices.iter().all(|d| d.path != Path::new(path)) {
            devices.push(Device {
                path: path.into(),
                kind: libc_kind(LinuxDeviceType::C),
                number: (major, minor),
                mode: 0o666,
                owner: (0, 0),
                configured: false,
            });
        }
    }
    Ok(devices)
}

fn device_node(device: &LinuxDevice, field: &str) -> Result<Device> {
    if !device.path().is_absolute() {
        return Err(Error::config(format!("{field}.path"), "is not absolute"));
    }
    if device.typ() == LinuxDeviceType::A {
        return Err(Error::config(
            format!("{field}.type"),
            "\"a\" is not a kind of device node",
        ));
    }
    let number = |n: i64, name: &str| {
        let fits = || {
            Error::config(
                format!("{field}.{name}"),
                format!("{n} is not a device number"),
            )
        };
        // Absent numbers are 0, as fifos have none.
        u32::try_from(n).map_err(|_| fits())
    };
    Ok(Device {
        path: device.path().clone(),
        kind: libc_kind(device.typ()),
        number: (
            number(device.major(), "major")?,
            number(device.minor(), "minor")?,
        ),
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        configured: true,
    })
}

fn libc_kind(kind: LinuxDeviceType) -> u32 {
    match kind {
        LinuxDeviceType::B => 0o060_000,
        LinuxDeviceType::P => 0o010_000,
        _ => 0o020_000,
    }
}

fn propagation(name: Option<&str>) -> Result<(u64, bool)> {
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok((mounts::MS_SLAVE, true));
    };
    mounts::propagation(name).ok_or_else(|| {
        Error::config(
            "linux.rootfsPropagation",
            format!("{name:?} is not one of shared, slave, private, unbindable and their r-forms"),
        )
    })
}

/// Sysctls are allowed only where a namespace of the container's own keeps them
/// from the host.
fn sysctls(spec: &Spec, namespaces: &Namespaces) -> Result<Vec<(PathBuf, String)>> {
    let sysctls = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    let mut list = Vec::new();
    for (name, value) in sysctls.into_iter().flatten() {
        let path = sysctl_path(name);
        let field = || format!("linux.sysctl[{name:?}]");
        let text = path.to_string_lossy();
        if text.starts_with('/') || path.components().any(|c| c.as_os_str() == "..") {
            return Err(Error::config(field(), "is not a sysctl"));
        }
        let (kind, what) = sysctl_namespace(&text)
            .ok_or_else(|| Error::config(field(), "is not in a separate kernel namespace"))?;
        if !namespaces.has(kind) {
            let why = format!("is not allowed without a separate {what} namespace");
            return Err(Error::config(field(), why));
        }
        if text == "kernel/domainname" && spec.domainname().as_ref().is_some_and(|d| !d.is_empty())
        {
            return Err(Error::config(field(), "conflicts with domainname"));
        }
        if text == "kernel/hostname" {
            return Err(Error::config(
                field(),
                "conflicts with the field hostname: use that",
            ));
        }
        list.push((path, value.clone()));
    }
    list.sort();
    Ok(list)
}

/// `net.ipv4.conf.eth0/1.x`: as in sysctl(8), the first separator of the two
/// decides which one the name uses.
fn sysctl_path(name: &str) -> PathBuf {
    let dotted = name
        .find(['.', '/'])
        .is_none_or(|i| name.as_bytes()[i] == b'.');
    if !dotted {
        return name.into();
    }
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect::<String>()
        .into()
}

fn sysctl_namespace(path: &str) -> Option<(i32, &'static str)> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    if path.starts_with("net/") {
        Some((namespaces::NET, "network"))
    } else if path.starts_with("fs/mqueue/") || IPC.contains(&path) {
        Some((namespaces::IPC, "IPC"))
    } else if path == "kernel/domainname" || path == "kernel/hostname" {
        Some((namespaces::UTS, "UTS"))
    } else if path.starts_with("user/") {
        Some((namespaces::USER, "user"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_belongs_to_the_user_who_may_write_it() {
        let owner = |options: &str, namespaces: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.0.2","process":{{"user":{{"uid":5,"gid":0}},"cwd":"/"}},
                "mounts":[{{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup",
                "options":[{options}]}}],"linux":{{"namespaces":[{namespaces}],"uidMappings":
                [{{"containerID":0,"hostID":1000,"size":1}},{{"containerID":1,"hostID":2000,"size":9}}]}}}}"#
            );
            let spec: Spec = serde_json::from_str(&text).unwrap();
            let namespaces = Namespaces::from_spec(&spec).unwrap();
            let mounts = mounts::from_spec(&spec, Path::new("/b")).unwrap();
            cgroup_owner(&spec, &namespaces, &mounts)
        };
        let (cgroup, user) = (r#"{"type":"cgroup"}"#, r#"{"type":"user"}"#);
        assert_eq!(owner("", cgroup), Some(5));
        assert_eq!(owner("", &format!("{cgroup},{user}")), Some(2004));
        assert_eq!(owner("", user), None);
        assert_eq!(owner("\"ro\"", cgroup), None);
    }

    #[test]
    fn sysctl_names() {
        assert_eq!(
            sysctl_path("net.ipv4.ip_forward"),
            PathBuf::from("net/ipv4/ip_forward")
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.1/x"),
            PathBuf::from("net/ipv4/conf/eth0.1/x")
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.x"),
            PathBuf::from("net/ipv4/conf/eth0.1/x")
        );
        assert!(sysctl_namespace("kernel/core_pattern").is_none());
    }
}
