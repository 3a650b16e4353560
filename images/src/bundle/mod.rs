//! A runtime bundle from an image: `config.json` with the overlay of ARCHITECTURE.md, Rootfs.

mod rootless;

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;

use crate::error::FileContext;
use crate::identity::{IdMaps, Privilege};
use crate::{Error, Image, OverlayRootfs, Result, Store, UserIds, files};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What Docker gives a container.
const CAPABILITIES: [oci::Capability; 14] = [
    oci::Capability::AuditWrite,
    oci::Capability::Chown,
    oci::Capability::DacOverride,
    oci::Capability::Fowner,
    oci::Capability::Fsetid,
    oci::Capability::Kill,
    oci::Capability::Mknod,
    oci::Capability::NetBindService,
    oci::Capability::NetRaw,
    oci::Capability::Setfcap,
    oci::Capability::Setgid,
    oci::Capability::Setpcap,
    oci::Capability::Setuid,
    oci::Capability::SysChroot,
];

const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What [`Store::bundle`] makes a bundle with.
#[derive(Clone, Debug, Default)]
pub struct BundleOptions {
    /// Container id, the key of its rootfs in the store and its host name.
    pub id: String,
    /// Command line in place of the image's `Cmd`; with `entrypoint` of both.
    pub args: Vec<String>,
    /// In place of the image's `Entrypoint`.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value` beside the image's.
    pub env: Vec<String>,
    /// In place of the image's `User`.
    pub user: String,
    /// In place of the image's `WorkingDir`.
    pub working_dir: String,
    /// The process has a terminal.
    pub terminal: bool,
    /// The root file system cannot be written.
    pub read_only: bool,
    /// Bytes.
    pub memory: Option<i64>,
    /// CPUs, as in 1.5.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// Bytes that the container may write (see [`Store::rootfs_limited`]).
    pub disk: Option<u64>,
    /// Share the host's network.
    pub host_network: bool,
}

impl Store {
    /// Writes a bundle that stands on the store's layers: `config.json`, `rootfs` (empty, or where
    /// fuse-overlayfs shows the files) and `overlay` (what the container writes). [`Store::release`]
    /// with the same id ends it.
    pub fn bundle(&self, image: &str, bundle: &Path, options: &BundleOptions) -> Result<()> {
        let found = self.inspect(image)?;
        let user = self.user(image, &options.user)?;
        let config = config_of_new(bundle)?;
        let rootfs_dir = bundle.join("rootfs");
        fs::create_dir_all(&rootfs_dir).at("create", &rootfs_dir)?;
        let (id, dir) = (&options.id, bundle.join("overlay"));
        let overlay = match options.disk {
            Some(bytes) => Some(self.rootfs_limited(image, id, &dir, bytes)?),
            None => self.rootfs_or_mount(|| self.inspect(image), id, &dir, &rootfs_dir)?,
        };
        let made = spec(&found, &user, overlay.as_ref(), options)
            .and_then(|spec| crate::draft::canonical(&spec))
            .and_then(|bytes| files::write_durable(&config, &bytes));
        if made.is_err() {
            self.release(id)?;
            let _ = fs::remove_dir(&rootfs_dir);
        }
        made
    }

    /// Writes a bundle whose `rootfs` holds the files themselves, and needs no store to run.
    pub fn flat_bundle(&self, image: &str, bundle: &Path, options: &BundleOptions) -> Result<()> {
        let found = self.inspect(image)?;
        let user = self.user(image, &options.user)?;
        let config = config_of_new(bundle)?;
        let spec = spec(&found, &user, None, options)?;
        fs::create_dir_all(bundle).at("create", bundle)?;
        self.unpack_flat(image, &bundle.join("rootfs"))?;
        files::write_durable(&config, &crate::draft::canonical(&spec)?)
    }
}

/// Where the configuration of a bundle goes that is not there yet.
fn config_of_new(bundle: &Path) -> Result<PathBuf> {
    let config = bundle.join("config.json");
    if config.exists() {
        let what = bundle.display().to_string();
        return Err(Error::document(what, "is a bundle already"));
    }
    Ok(config)
}

fn invalid(error: oci_spec::OciSpecError) -> Error {
    Error::document("config.json", error)
}

/// The configuration of an image's container, for whoever this process is.
pub(crate) fn spec(
    image: &Image,
    user: &UserIds,
    overlay: Option<&OverlayRootfs>,
    options: &BundleOptions,
) -> Result<oci::Spec> {
    let mut spec = plain(image, user, overlay, options)?;
    if let Some(maps) = IdMaps::of_containers() {
        rootless::adapt(&mut spec, &maps)?;
    }
    Ok(spec)
}

/// The same for a container that this process starts itself. In a user namespace that is where the
/// container stays: its layers have their owners there.
pub(crate) fn nested_spec(
    image: &Image,
    user: &UserIds,
    overlay: Option<&OverlayRootfs>,
    options: &BundleOptions,
) -> Result<oci::Spec> {
    match (Privilege::now(), IdMaps::own()) {
        (Privilege::Namespace, Some(maps)) => {
            let mut spec = plain(image, user, overlay, options)?;
            rootless::without_root(&mut spec, &maps)?;
            Ok(spec)
        }
        _ => spec(image, user, overlay, options),
    }
}

/// The configuration for root.
fn plain(
    image: &Image,
    user: &UserIds,
    overlay: Option<&OverlayRootfs>,
    options: &BundleOptions,
) -> Result<oci::Spec> {
    let root = oci::RootBuilder::default()
        .path("rootfs")
        .readonly(options.read_only);
    let mut mounts = Vec::new();
    if let Some(overlay) = overlay {
        mounts.push(mount("/", "overlay", "overlay", overlay.mount_options())?);
    }
    mounts.extend(standard_mounts()?);
    let mut spec = oci::SpecBuilder::default()
        .version("1.0.2")
        .root(root.build().map_err(invalid)?)
        .process(process(image, user, options)?)
        .mounts(mounts)
        .linux(linux(options)?)
        .annotations(std::collections::HashMap::from([
            (
                "org.opencontainers.image.ref.name".to_owned(),
                name_of(image),
            ),
            ("io.rrun.image.id".to_owned(), image.id.to_string()),
        ]))
        .build()
        .map_err(invalid)?;
    if options.host_network {
        spec.set_hostname(None);
    } else {
        let name = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        spec.set_hostname(Some(options.id.chars().map(name).take(63).collect()));
    }
    Ok(spec)
}

fn name_of(image: &Image) -> String {
    image
        .repo_tags
        .first()
        .or(image.repo_digests.first())
        .cloned()
        .unwrap_or(image.id.to_string())
}

fn process(image: &Image, user: &UserIds, options: &BundleOptions) -> Result<oci::Process> {
    let cwd = [&options.working_dir, &image.config.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty());
    let ids = oci::UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone());
    oci::ProcessBuilder::default()
        .terminal(options.terminal)
        .user(ids.build().map_err(invalid)?)
        .args(arguments(image, options)?)
        .env(environment(image, user, options))
        .cwd(cwd.map_or("/", String::as_str))
        .capabilities(capabilities(user)?)
        .rlimits(Vec::new())
        .no_new_privileges(false)
        .build()
        .map_err(invalid)
}

/// What is given replaces the image's command, and with its entry point all of that.
fn arguments(image: &Image, options: &BundleOptions) -> Result<Vec<String>> {
    let config = &image.config;
    let (entrypoint, cmd) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint, &options.args),
        None if options.args.is_empty() => (&config.entrypoint, &config.cmd),
        None => (&config.entrypoint, &options.args),
    };
    let args = [&entrypoint[..], cmd].concat();
    if args.is_empty() {
        let why = "has no command: give one after the bundle";
        return Err(Error::document(format!("image {}", name_of(image)), why));
    }
    Ok(args)
}

fn environment(image: &Image, user: &UserIds, options: &BundleOptions) -> Vec<String> {
    let mut env = image.config.env.clone();
    let has = |env: &[String], key: &str| env.iter().any(|e| e.split('=').next() == Some(key));
    if !has(&env, "PATH") {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    for new in &options.env {
        let key = new.split('=').next().unwrap_or_default();
        env.retain(|old| old.split('=').next() != Some(key));
        env.push(new.clone());
    }
    if options.terminal && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// A process that is not root has capabilities only through a file's.
fn capabilities(user: &UserIds) -> Result<oci::LinuxCapabilities> {
    let all: oci::Capabilities = CAPABILITIES.into_iter().collect();
    let active = if user.uid == 0 {
        all.clone()
    } else {
        oci::Capabilities::new()
    };
    oci::LinuxCapabilitiesBuilder::default()
        .bounding(all)
        .permitted(active.clone())
        .effective(active)
        .inheritable(oci::Capabilities::new())
        .ambient(oci::Capabilities::new())
        .build()
        .map_err(invalid)
}

pub(crate) fn mount(
    to: &str,
    kind: &str,
    source: &str,
    options: Vec<String>,
) -> Result<oci::Mount> {
    oci::MountBuilder::default()
        .destination(to)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .map_err(invalid)
}

fn standard_mounts() -> Result<Vec<oci::Mount>> {
    let table = [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            "nosuid,noexec,nodev,relatime,ro",
        ),
    ];
    let options = |text: &str| text.split(',').map(str::to_owned).collect();
    table
        .iter()
        .map(|(to, kind, source, o)| mount(to, kind, source, options(o)))
        .collect()
}

fn linux(options: &BundleOptions) -> Result<oci::Linux> {
    use oci::LinuxNamespaceType as Kind;
    let mut kinds = vec![Kind::Pid, Kind::Ipc, Kind::Mount, Kind::Cgroup];
    if !options.host_network {
        kinds.extend([Kind::Network, Kind::Uts]);
    }
    let namespaces = kinds
        .into_iter()
        .map(|kind| oci::LinuxNamespaceBuilder::default().typ(kind).build());
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut linux = oci::Linux::default();
    linux.set_namespaces(Some(
        namespaces.collect::<Result<Vec<_>, _>>().map_err(invalid)?,
    ));
    linux.set_masked_paths(Some(texts(&MASKED)));
    linux.set_readonly_paths(Some(texts(&READ_ONLY)));
    linux.set_resources(Some(resources(options)?));
    Ok(linux)
}

fn resources(options: &BundleOptions) -> Result<oci::LinuxResources> {
    // runc's default: all is denied but the devices that the runtime itself makes.
    let deny = oci::LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build();
    let mut resources = oci::LinuxResources::default();
    resources.set_devices(Some(vec![deny.map_err(invalid)?]));
    if let Some(memory) = options.memory {
        let memory = oci::LinuxMemoryBuilder::default()
            .limit(memory)
            .swap(memory)
            .build();
        resources.set_memory(Some(memory.map_err(invalid)?));
    }
    if let Some(cpus) = options.cpus {
        let period = 100_000u64;
        let quota = (cpus * 100_000.0).round() as i64;
        let cpu = oci::LinuxCpuBuilder::default()
            .quota(quota)
            .period(period)
            .build();
        resources.set_cpu(Some(cpu.map_err(invalid)?));
    }
    if let Some(pids) = options.pids {
        let pids = oci::LinuxPidsBuilder::default()
            .limit(pids)
            .build()
            .map_err(invalid)?;
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}
