//! Reads from the machine what the bundle of a container depends on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rrun_cri_api::v1::security_profile::ProfileType;
use rrun_cri_api::v1::{LinuxContainerSecurityContext, Mount, NamespaceMode};

use super::{etc, image_volume};
use crate::apparmor;
use crate::bundle::{AskedAppArmor, DeviceNode, Facts, Limits, MountFact, Source, asked_apparmor};
use crate::config::CgroupDriver;
use crate::daemon::Daemon;
use crate::error::Error;
use crate::sandbox::{self, IdMaps};
use crate::store::{ContainerRecord, SandboxRecord};

/// Gathers everything, and makes the writable layer.
pub fn gather(daemon: &Daemon, sandbox: &SandboxRecord, record: &ContainerRecord) -> Result<Facts> {
    let config = record.config();
    let linux = config.linux.as_ref();
    let security = linux
        .and_then(|l| l.security_context.clone())
        .unwrap_or_default();
    let image = daemon.images.inspect(&record.image_id)?;
    let dir = daemon.config.container_dir(&record.id);
    let rootfs = daemon.images.rootfs(&record.image_id, &record.id, &dir)?;
    let volumes = image.config.volumes.iter().enumerate();
    let volumes: Vec<(String, PathBuf)> = volumes
        .map(|(n, path)| Ok((path.clone(), volume(&dir, n)?)))
        .collect::<Result<_>>()?;
    let users_of_pod = users_of_pod(sandbox, &security)?;
    if let Some(maps) = &users_of_pod {
        let made = volumes.iter().map(|(_, dir)| dir);
        for dir in made.chain(std::iter::once(&rootfs.upper)) {
            let meta = fs::metadata(dir).with_context(|| format!("stat {}", dir.display()))?;
            maps.shift_owner(dir, meta.uid(), meta.gid())?;
        }
    }
    Ok(Facts {
        users: etc::read(&rootfs.lower)?,
        rootfs: rootfs.mount_options(),
        image: image.config,
        mounts: mounts(daemon, record)?,
        volumes,
        devices: devices(record, &security)?,
        sandbox_dir: daemon.config.sandbox_dir(&sandbox.id),
        hostname: hostname(sandbox)?,
        pid_namespace: pid_namespace(daemon, sandbox, record, &security)?,
        users_of_pod,
        cgroup: cgroup_path(daemon, sandbox, &record.id),
        unified: daemon.cgroups.unified,
        limits: limits(daemon),
        seccomp_profile: seccomp_profile(&security)?,
        seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
        selinux: daemon.selinux(),
        apparmor: apparmor::enabled(),
        apparmor_default: apparmor_default(&security)?,
        held_capabilities: held_capabilities()?,
        oom_floor: oom_floor()?,
        arch: std::env::consts::ARCH.to_owned(),
    })
}

/// As the pod's UTS namespace has it: a kubelet names no pod that is in the machine's network.
fn hostname(sandbox: &SandboxRecord) -> Result<String> {
    let own = &sandbox.config().hostname;
    if !own.is_empty() && !sandbox.host_network() {
        return Ok(own.clone());
    }
    let name = nix::unistd::gethostname().context("read the host name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// The pod's user namespace, which a container cannot choose for itself.
fn users_of_pod(
    sandbox: &SandboxRecord,
    security: &LinuxContainerSecurityContext,
) -> Result<Option<IdMaps>> {
    let pod = IdMaps::of(&sandbox.namespaces())?;
    let own = security.namespace_options.as_ref();
    if let Some(own) = own.filter(|o| o.userns_options.is_some())
        && IdMaps::of(own)? != pod
    {
        let why = "linux.security_context.namespace_options.userns_options: not the pod's";
        return Err(Error::invalid(why).into());
    }
    Ok(pod)
}

/// A directory of the container's own for a volume that the image declares.
fn volume(dir: &Path, number: usize) -> Result<PathBuf> {
    let path = dir.join("volumes").join(number.to_string());
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// `cgroupsPath`: a path for cgroupfs, `slice:prefix:name` for systemd.
pub fn cgroup_path(daemon: &Daemon, sandbox: &SandboxRecord, id: &str) -> String {
    match daemon.config.cgroup_driver {
        CgroupDriver::Cgroupfs => format!("{}/{id}", sandbox.cgroup_parent.trim_end_matches('/')),
        CgroupDriver::Systemd => {
            let slice = Path::new(&sandbox.cgroup_parent);
            let slice = slice.file_name().map(|n| n.to_string_lossy().into_owned());
            format!("{}:rrun:{id}", slice.unwrap_or_default())
        }
    }
}

fn mounts(daemon: &Daemon, record: &ContainerRecord) -> Result<Vec<MountFact>> {
    let info = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let one = |(number, mount): (usize, &Mount)| match record.mount_images.get(number) {
        Some(image) if !image.is_empty() => {
            image_source(daemon, &super::volume_key(&record.id, number), image, mount)
        }
        _ => path_source(&info, mount),
    };
    record.config().mounts.iter().enumerate().map(one).collect()
}

fn path_source(info: &str, mount: &Mount) -> Result<MountFact> {
    let path = Path::new(&mount.host_path);
    if !path.is_absolute() {
        return Err(Error::invalid(format!(
            "mounts: host_path {:?} is not absolute",
            mount.host_path
        ))
        .into());
    }
    // As with the peers: what is missing becomes a directory.
    if !path.exists() && path.symlink_metadata().is_err() {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    }
    let path = path
        .canonicalize()
        .with_context(|| format!("mounts: host_path {}", mount.host_path))?;
    let (shared, slave) = propagation(info, &path);
    Ok(MountFact {
        source: Source::Path(path),
        shared,
        slave,
    })
}

/// proc_pid_mountinfo(5): the mount that a path is on is the last one with the longest prefix;
/// its optional fields stand before the lone dash.
fn propagation(info: &str, path: &Path) -> (bool, bool) {
    let mut best = (0, false, false);
    for line in info.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else {
            continue;
        };
        if path.starts_with(&point) && point.len() >= best.0 {
            let optional: Vec<_> = fields.skip(1).take_while(|f| *f != "-").collect();
            let has = |tag: &str| optional.iter().any(|f| f.starts_with(tag));
            best = (point.len(), has("shared:"), has("master:"));
        }
    }
    (best.1, best.2)
}

/// Space, tab, newline and backslash are octal in mountinfo.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn image_source(daemon: &Daemon, key: &str, image: &str, mount: &Mount) -> Result<MountFact> {
    let dir = daemon.config.container_dir(key);
    let rootfs = daemon.images.rootfs(image, key, &dir)?;
    Ok(MountFact {
        source: Source::Layers(image_volume::layers(rootfs.lower, &mount.image_sub_path)?),
        shared: false,
        slave: false,
    })
}

fn devices(
    record: &ContainerRecord,
    security: &LinuxContainerSecurityContext,
) -> Result<Vec<DeviceNode>> {
    let mut all = Vec::new();
    if security.privileged {
        walk(Path::new("/dev"), "/dev", "rwm", &mut all)?;
    }
    for device in &record.config().devices {
        let access = &device.permissions;
        if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(Error::invalid(format!(
                "devices: permissions {access:?} of {} are not among rwm",
                device.host_path
            ))
            .into());
        }
        let path = Path::new(&device.host_path);
        let meta = fs::metadata(path).with_context(|| format!("devices: {}", path.display()))?;
        if meta.is_dir() {
            walk(path, &device.container_path, access, &mut all)?;
        } else {
            match node(&meta, device.container_path.clone(), access) {
                Some(node) => all.push(node),
                None => bail!("devices: {} is not a device node", path.display()),
            }
        }
    }
    // A later entry for the same path replaces an earlier one.
    let mut seen = std::collections::BTreeSet::new();
    all.reverse();
    all.retain(|node| seen.insert(node.path.clone()));
    all.reverse();
    Ok(all)
}

/// Device nodes below a directory, but for what a container has of its own.
fn walk(dir: &Path, shown: &str, access: &str, all: &mut Vec<DeviceNode>) -> Result<()> {
    const OWN: [&str; 7] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        "console",
        "lxc",
        "lxd-console",
    ];
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if OWN.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{shown}/{name}");
        // A node that goes away meanwhile (hot-plug) is none.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            walk(&entry.path(), &path, access, all)?;
        } else {
            all.extend(node(&meta, path, access));
        }
    }
    Ok(())
}

fn node(meta: &fs::Metadata, path: String, access: &str) -> Option<DeviceNode> {
    let kind = match meta.file_type() {
        t if t.is_block_device() => "b",
        t if t.is_char_device() => "c",
        _ => return None,
    };
    Some(DeviceNode {
        path,
        kind: kind.to_owned(),
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

fn pid_namespace(
    daemon: &Daemon,
    sandbox: &SandboxRecord,
    record: &ContainerRecord,
    security: &LinuxContainerSecurityContext,
) -> Result<Option<PathBuf>> {
    let options = security.namespace_options.clone().unwrap_or_default();
    match options.pid() {
        NamespaceMode::Container | NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => {
            let path = sandbox::pin(&daemon.config.sandbox_dir(&sandbox.id), "pid");
            Ok(path.exists().then_some(path))
        }
        NamespaceMode::Target => {
            let target = daemon.container(&options.target_id)?.get();
            if target.sandbox_id != record.sandbox_id || target.pid == 0 {
                return Err(Error::invalid(format!(
                    "target_id {}: not a running container of this pod",
                    options.target_id
                ))
                .into());
            }
            Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", target.pid))))
        }
    }
}

/// What the kernel can limit.
pub fn limits(daemon: &Daemon) -> Limits {
    Limits {
        swap: swap_limit(daemon),
        hugetlb: daemon.cgroups.has("hugetlb"),
    }
}

fn swap_limit(daemon: &Daemon) -> bool {
    match daemon.cgroups.dir("memory", "/") {
        Some(dir) if !daemon.cgroups.unified => dir.join("memory.memsw.limit_in_bytes").exists(),
        Some(_) => fs::read_to_string("/proc/swaps").is_ok_and(|s| s.lines().count() > 1),
        None => false,
    }
}

fn seccomp_profile(security: &LinuxContainerSecurityContext) -> Result<Option<(String, String)>> {
    let asked = crate::bundle::asked_seccomp(security)?;
    if asked.profile_type() != ProfileType::Localhost || security.privileged {
        return Ok(None);
    }
    let path = asked.localhost_ref;
    let text = fs::read_to_string(&path).with_context(|| format!("seccomp profile {path}"))?;
    Ok(Some((path, text)))
}

/// Sees to it that the kernel has the profile that is asked for; whether it is the default one.
fn apparmor_default(security: &LinuxContainerSecurityContext) -> Result<bool> {
    let asked = asked_apparmor(security)?;
    if !apparmor::enabled() {
        return Ok(false);
    }
    match asked {
        AskedAppArmor::Localhost(name) if !apparmor::is_loaded(&name)? => {
            let why = format!("linux.security_context.apparmor: profile {name:?} is not loaded");
            Err(Error::invalid(why).into())
        }
        AskedAppArmor::Default { said } if !security.privileged => match apparmor::load_default() {
            Ok(()) => Ok(true),
            Err(error) if said => Err(error),
            // As on a kernel without AppArmor: nobody asked for it.
            Err(error) => {
                tracing::warn!("a container runs without an AppArmor profile: {error:#}");
                Ok(false)
            }
        },
        _ => Ok(false),
    }
}

fn held_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapPrm:"));
    let line = line.context("/proc/self/status has no CapPrm")?;
    u64::from_str_radix(line.trim(), 16).context("CapPrm of /proc/self/status")
}

/// proc_pid_oom_score_adj(5): without CAP_SYS_RESOURCE (bit 24) a process cannot go below the
/// value it has.
pub fn oom_floor() -> Result<i64> {
    if held_capabilities()? >> 24 & 1 == 1 {
        return Ok(-1000);
    }
    let path = "/proc/self/oom_score_adj";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.trim().parse().with_context(|| format!("parse {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_is_that_of_the_deepest_mount() {
        let info = "\
1 0 0:1 / / rw shared:1 - ext4 /dev/a rw
2 1 0:2 / /data rw - tmpfs t rw
3 1 0:3 / /data/with\\040space rw master:4 - tmpfs t rw
";
        assert_eq!(propagation(info, Path::new("/etc")), (true, false));
        assert_eq!(propagation(info, Path::new("/data/x")), (false, false));
        assert_eq!(
            propagation(info, Path::new("/data/with space/x")),
            (false, true)
        );
        assert_eq!(propagation(info, Path::new("/database")), (true, false));
    }
}
