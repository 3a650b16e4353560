//! The command line: each flag goes before the key of the file that it stands for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::file::{AskedDriver, File, LogFormat};

/// Where the configuration is looked for.
pub const PATH: &str = "/etc/rrun/cri.toml";

/// Flags of `rrun-cri serve`. Their defaults are those of `rrun-cri config default`.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Configuration file [default: /etc/rrun/cri.toml where it exists]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Socket to serve CRI on [default: unix:///run/rrun-cri/cri.sock]
    #[arg(long, value_name = "unix:///PATH")]
    pub listen: Option<String>,
    /// Durable state and the containers' writable layers [default: /var/lib/rrun/cri]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Volatile state: bundles, pinned namespaces [default: /run/rrun-cri]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Image store [default: /var/lib/rrun/images]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// State of the OCI runtime [default: /run/rrun]
    #[arg(long, value_name = "DIR")]
    pub runtime_root: Option<PathBuf>,
    /// OCI runtime [default: rrun beside this program, or on PATH]
    #[arg(long, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
    /// Shim [default: containerd-shim-rrun-v2 beside this program, or on PATH]
    #[arg(long, value_name = "PATH")]
    pub shim: Option<PathBuf>,
    /// Who makes the cgroups of containers [default: cgroupfs]
    #[arg(long, value_enum)]
    pub cgroup_driver: Option<AskedDriver>,
    /// Address of the streaming server for exec, attach and port-forward [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR:PORT")]
    pub stream_listen: Option<SocketAddr>,
    /// Prometheus metrics at /metrics, on an address or a socket [default: none]
    #[arg(long, value_name = "ADDR:PORT|unix:///PATH")]
    pub metrics_listen: Option<String>,
    /// CNI configuration; without any, pods get the built-in bridge [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// CNI plugins, any number of times [default: /opt/cni/bin, /usr/lib/cni]
    #[arg(long, value_name = "DIR")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Name of the built-in bridge [default: rrun0]
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// Subnet of the built-in bridge [default: 10.88.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub subnet: Option<String>,
    /// Mirrors of registries, as containerd's <DIR>/<registry>/hosts.toml say
    /// [default: /etc/containerd/certs.d]
    #[arg(long, value_name = "DIR")]
    pub registry_hosts_dir: Option<PathBuf>,
    /// Registry host that is spoken to without TLS, any number of times (loopback always is)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub plain_http: Vec<String>,
    /// Socket for NRI plugins [default: nri.sock in the state directory]
    #[arg(long, value_name = "PATH")]
    pub nri_socket: Option<PathBuf>,
    /// Installed NRI plugins [default: /opt/nri/plugins]
    #[arg(long, value_name = "DIR")]
    pub nri_plugin_dir: Option<PathBuf>,
    /// What to log, as in RUST_LOG [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// Keys whose value came from a flag, with the flag's name.
pub type Given = BTreeMap<&'static str, &'static str>;

impl Flags {
    /// Puts what was given in place of the file's.
    pub fn apply(&self, file: &mut File) -> Given {
        let mut given = Given::new();
        let flags = self.clone();
        let rrun = file.runtimes.entry("rrun".to_owned()).or_default();
        macro_rules! put {
            ($($flag:literal $key:literal $value:expr => $target:expr;)*) => {
                $(if let Some(value) = $value {
                    $target = value;
                    given.insert($key, $flag);
                })*
            };
        }
        put! {
            "--runtime-root" "runtimes.rrun.root" flags.runtime_root => rrun.root;
            "--runtime" "runtimes.rrun.path" flags.runtime => rrun.path;
            "--shim" "runtimes.rrun.shim" flags.shim => rrun.shim;
        }
        // A second daemon with other directories is not to take the first one's NRI socket.
        let nri_socket = flags.nri_socket.or_else(|| {
            let unset = file.nri.socket == super::file::Nri::default().socket;
            flags
                .state
                .as_ref()
                .filter(|_| unset)
                .map(|s| s.join("nri.sock"))
        });
        put! {
            "--listen" "listen" flags.listen => file.listen;
            "--root" "root" flags.root => file.root;
            "--state" "state" flags.state => file.state;
            "--store" "images.store" flags.store => file.images.store;
            "--cgroup-driver" "cgroup_driver" flags.cgroup_driver => file.cgroup_driver;
            "--stream-listen" "stream_listen" flags.stream_listen => file.stream_listen;
            "--metrics-listen" "metrics_listen" flags.metrics_listen => file.metrics_listen;
            "--cni-conf-dir" "network.cni_conf_dir" flags.cni_conf_dir
                => file.network.cni_conf_dir;
            "--cni-bin-dir" "network.cni_bin_dirs"
                Some(flags.cni_bin_dir).filter(|d| !d.is_empty()) => file.network.cni_bin_dirs;
            "--bridge" "network.bridge" flags.bridge => file.network.bridge;
            "--subnet" "network.subnet" flags.subnet => file.network.subnet;
            "--registry-hosts-dir" "images.hosts_dir" flags.registry_hosts_dir
                => file.images.hosts_dir;
            "--plain-http" "images.plain_http"
                Some(flags.plain_http).filter(|h| !h.is_empty()) => file.images.plain_http;
            "--nri-socket" "nri.socket" nri_socket => file.nri.socket;
            "--nri-plugin-dir" "nri.plugin_dir" flags.nri_plugin_dir => file.nri.plugin_dir;
            "--log" "log" flags.log => file.log;
            "--log-json" "log_format"
                flags.log_json.then_some(LogFormat::Json) => file.log_format;
        }
        given
    }
}
