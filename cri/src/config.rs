//! What the command line says, checked once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::network::NetworkConfig;

/// Who makes the cgroups of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupDriver {
    /// The runtime, in `/sys/fs/cgroup`.
    Cgroupfs,
    /// systemd, by transient scopes.
    Systemd,
}

/// Flags of `rrun-cri serve`.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Socket to serve CRI on
    #[arg(
        long,
        value_name = "unix:///PATH",
        default_value = "unix:///run/rrun-cri/cri.sock"
    )]
    pub listen: String,
    /// Durable state and the containers' writable layers
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rrun/cri")]
    pub root: PathBuf,
    /// Volatile state: bundles, pinned namespaces
    #[arg(long, value_name = "DIR", default_value = "/run/rrun-cri")]
    pub state: PathBuf,
    /// Image store
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rrun/images")]
    pub store: PathBuf,
    /// State of the OCI runtime
    #[arg(long, value_name = "DIR", default_value = "/run/rrun")]
    pub runtime_root: PathBuf,
    /// OCI runtime [default: rrun beside this program, or on PATH]
    #[arg(long, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
    /// Shim [default: containerd-shim-rrun-v2 beside this program, or on PATH]
    #[arg(long, value_name = "PATH")]
    pub shim: Option<PathBuf>,
    /// Who makes the cgroups of containers
    #[arg(long, value_enum, default_value = "cgroupfs")]
    pub cgroup_driver: CgroupDriver,
    /// Address of the streaming server for exec, attach and port-forward
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub stream_listen: SocketAddr,
    /// CNI configuration; without any, pods get the built-in bridge
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// CNI plugins, any number of times
    #[arg(long, value_name = "DIR", default_values = ["/opt/cni/bin", "/usr/lib/cni"])]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Name of the built-in bridge
    #[arg(long, value_name = "NAME", default_value = "rrun0")]
    pub bridge: String,
    /// Subnet of the built-in bridge
    #[arg(long, value_name = "CIDR", default_value = "10.88.0.0/16")]
    pub subnet: String,
    /// Mirrors of registries, as containerd's <DIR>/<registry>/hosts.toml say
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    pub registry_hosts_dir: PathBuf,
    /// Registry host that is spoken to without TLS, any number of times (loopback always is)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub plain_http: Vec<String>,
    /// What to log, as in RUST_LOG
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the CRI socket.
    pub socket: PathBuf,
    /// Durable directory.
    pub root: PathBuf,
    /// Volatile directory.
    pub state: PathBuf,
    /// Image store.
    pub store: PathBuf,
    /// The runtime's `--root`.
    pub runtime_root: PathBuf,
    /// The OCI runtime.
    pub runtime: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Of the streaming server.
    pub stream_listen: SocketAddr,
    /// Of pods.
    pub network: NetworkConfig,
    /// `hosts.toml` of registries.
    pub registry_hosts_dir: PathBuf,
    /// Registries without TLS.
    pub plain_http: Vec<String>,
}

impl Config {
    /// Checks the flags.
    pub fn from_flags(flags: &Flags) -> Result<Self> {
        let socket = flags
            .listen
            .strip_prefix("unix://")
            .unwrap_or(&flags.listen);
        if !socket.starts_with('/') {
            bail!("--listen {}: give unix:///absolute/path", flags.listen);
        }
        let root = absolute("--root", &flags.root)?;
        let state = absolute("--state", &flags.state)?;
        let network = NetworkConfig {
            root: root.join("network"),
            state: state.join("network"),
            cni_conf_dir: absolute("--cni-conf-dir", &flags.cni_conf_dir)?,
            cni_bin_dirs: flags.cni_bin_dir.clone(),
            bridge: flags.bridge.clone(),
            subnet: flags.subnet.clone(),
        };
        Ok(Self {
            socket: socket.into(),
            store: absolute("--store", &flags.store)?,
            runtime_root: absolute("--runtime-root", &flags.runtime_root)?,
            runtime: program("--runtime", flags.runtime.as_deref(), "rrun")?,
            shim: program("--shim", flags.shim.as_deref(), "containerd-shim-rrun-v2")?,
            cgroup_driver: flags.cgroup_driver,
            stream_listen: flags.stream_listen,
            registry_hosts_dir: flags.registry_hosts_dir.clone(),
            plain_http: flags.plain_http.clone(),
            network,
            root,
            state,
        })
    }

    /// Directory of a sandbox's pins and files.
    pub fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.state.join("sandboxes").join(id)
    }

    /// Bundle of a container.
    pub fn bundle_dir(&self, id: &str) -> PathBuf {
        self.state.join("containers").join(id)
    }

    /// Durable directory of a container: its writable layer and volumes.
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }
}

fn absolute(flag: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        bail!("{flag} {}: the path is not absolute", path.display());
    }
    Ok(path.to_owned())
}

/// What the flag says, else the program beside this one, else on PATH.
fn program(flag: &str, given: Option<&Path>, name: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        let found = path.canonicalize();
        return found.with_context(|| format!("{flag} {}", path.display()));
    }
    let own = std::env::current_exe().context("find this program")?;
    let beside = own.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is neither beside {} nor on PATH: install it, or give {flag}",
                own.display()
            )
        })
}
