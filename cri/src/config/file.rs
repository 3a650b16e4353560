//! The configuration file as it is written: types, defaults, and where a key stands in it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of the file that this program reads.
pub const VERSION: u32 = 1;

/// Every key with its default, explained.
pub const DEFAULT: &str = include_str!("default.toml");

/// Who makes the cgroups of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AskedDriver {
    /// The runtime, in `/sys/fs/cgroup`.
    Cgroupfs,
    /// systemd, by transient scopes.
    Systemd,
    /// systemd where it runs the machine with nothing but cgroup version 2, else the runtime.
    Auto,
}

/// Which containers get an SELinux label, where the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AskedSelinux {
    /// Those whose `selinux_options` name a part of one.
    Requested,
    /// All of them.
    All,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Who mounts the overlay of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootfsBy {
    /// By the name of the runtime's program.
    Auto,
    /// The runtime, from a mount on `/` in config.json.
    Runtime,
    /// The shim, on the bundle's rootfs.
    Shim,
}

/// A duration as people write it: `500ms`, `5s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ms = self.0.as_millis();
        let text = match ms {
            _ if !ms.is_multiple_of(1000) => format!("{ms}ms"),
            _ if !ms.is_multiple_of(60_000) || ms == 0 => format!("{}s", ms / 1000),
            _ => format!("{}m", ms / 60_000),
        };
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(at.unwrap_or(text.len()));
        let ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            _ => 0,
        };
        match number.parse::<u32>() {
            Ok(number) if number > 0 && ms > 0 => {
                Ok(Self(Duration::from_millis(u64::from(number) * ms)))
            }
            _ => Err(serde::de::Error::custom(format!(
                "{text:?} is no duration such as \"500ms\", \"5s\" or \"2m\""
            ))),
        }
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub version: u32,
    pub listen: String,
    pub root: PathBuf,
    pub state: PathBuf,
    pub log: String,
    pub log_format: LogFormat,
    pub cgroup_driver: AskedDriver,
    pub stream_listen: SocketAddr,
    pub metrics_listen: String,
    pub default_runtime: String,
    pub cdi_spec_dirs: Vec<PathBuf>,
    pub selinux: AskedSelinux,
    pub tracing: Tracing,
    pub images: Images,
    pub registries: BTreeMap<String, Registry>,
    pub network: Network,
    pub nri: Nri,
    pub runtimes: BTreeMap<String, Runtime>,
}

impl Default for File {
    fn default() -> Self {
        let rrun = Runtime {
            root: "/run/rrun".into(),
            ..Runtime::default()
        };
        Self {
            version: VERSION,
            listen: "unix:///run/rrun-cri/cri.sock".into(),
            root: "/var/lib/rrun/cri".into(),
            state: "/run/rrun-cri".into(),
            log: "info".into(),
            log_format: LogFormat::Text,
            cgroup_driver: AskedDriver::Cgroupfs,
            stream_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: String::new(),
            default_runtime: "rrun".into(),
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            selinux: AskedSelinux::Requested,
            tracing: Tracing::default(),
            images: Images::default(),
            registries: BTreeMap::new(),
            network: Network::default(),
            nri: Nri::default(),
            runtimes: BTreeMap::from([("rrun".to_owned(), rrun)]),
        }
    }
}

/// `[tracing]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    pub endpoint: String,
    pub sampling_rate_per_million: u32,
}

/// `[images]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    pub store: PathBuf,
    pub snapshotter: String,
    pub hosts_dir: PathBuf,
    pub registries_conf: PathBuf,
    pub policy: PathBuf,
    pub plain_http: Vec<String>,
    pub ca_files: Vec<PathBuf>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            store: "/var/lib/rrun/images".into(),
            snapshotter: "overlayfs".into(),
            hosts_dir: "/etc/containerd/certs.d".into(),
            registries_conf: PathBuf::new(),
            policy: PathBuf::new(),
            plain_http: vec![],
            ca_files: vec![],
        }
    }
}

/// `[registries."host"]`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    pub username: String,
    #[serde(skip_serializing)]
    pub password: String,
    pub password_file: PathBuf,
}

/// Secrets stay out of logs.
impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({:?}, …)", self.username)
    }
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dirs: Vec<PathBuf>,
    pub bridge: String,
    pub subnet: String,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            bridge: "rrun0".into(),
            subnet: "10.88.0.0/16".into(),
        }
    }
}

/// `[nri]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nri {
    pub enable: bool,
    pub socket: PathBuf,
    pub plugin_dir: PathBuf,
    pub plugin_config_dir: PathBuf,
    pub registration_timeout: Span,
    pub request_timeout: Span,
    pub synchronize_timeout: Span,
}

impl Default for Nri {
    fn default() -> Self {
        Self {
            enable: true,
            socket: "/run/nri/nri.sock".into(),
            plugin_dir: "/opt/nri/plugins".into(),
            plugin_config_dir: "/etc/nri/conf.d".into(),
            registration_timeout: Span(Duration::from_secs(5)),
            request_timeout: Span(Duration::from_secs(2)),
            synchronize_timeout: Span(Duration::from_secs(10)),
        }
    }
}

/// `[runtimes.<handler>]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    pub path: PathBuf,
    pub root: PathBuf,
    pub shim: PathBuf,
    pub task_shim: PathBuf,
    pub task_shim_config: PathBuf,
    pub rootfs: RootfsBy,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            root: PathBuf::new(),
            shim: PathBuf::new(),
            task_shim: PathBuf::new(),
            task_shim_config: PathBuf::new(),
            rootfs: RootfsBy::Auto,
        }
    }
}

impl File {
    /// Parses a file; an error names line and key.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let file: Self = toml::from_str(text).map_err(|error| {
            let place = match error.span() {
                Some(span) => {
                    let start = span.start.min(text.len());
                    let line = text[..start].matches('\n').count() + 1;
                    let key = key_at(text, line);
                    format!("{}:{line}: {key}", path.display())
                }
                None => path.display().to_string(),
            };
            let message = error.message().lines().collect::<Vec<_>>().join(" ");
            anyhow::anyhow!("{place}: {message}")
        })?;
        if file.version != VERSION {
            bail!(
                "{}:{}: version {}: this program reads version {VERSION}",
                path.display(),
                line_of(text, "version").unwrap_or(1),
                file.version
            );
        }
        Ok(file)
    }

    /// Reads and parses a file. One that is not there is the defaults, unless it was asked for.
    pub fn read(path: &Path, asked: bool) -> Result<(Self, String)> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((Self::parse(path, &text)?, text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => {
                Ok((Self::default(), String::new()))
            }
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

/// Section and key of each line, by the only forms that this file needs: `[a.b]` and `key = …`.
fn keys(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut section = String::new();
    (1..).zip(text.lines()).filter_map(move |(number, line)| {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            let name = head.trim_start_matches('[').split(']').next()?;
            section = name.replace(['"', ' '], "");
            return Some((number, section.clone()));
        }
        let (key, _) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let key = key.trim().replace('"', "");
        let full = if section.is_empty() {
            key
        } else {
            format!("{section}.{key}")
        };
        Some((number, full))
    })
}

/// The key that a line belongs to: its own, or the last one before it.
fn key_at(text: &str, line: usize) -> String {
    let before = keys(text).take_while(|(number, _)| *number <= line);
    before.last().map_or(String::new(), |(_, key)| key)
}

/// The line of a key.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    keys(text).find(|(_, k)| k == key).map(|(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the comment sign of optional sections.
    fn with_examples() -> String {
        let example = |line: &str| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let key = bare.split(' ').next().unwrap_or_default();
            let known = [
                "username",
                "password_file",
                "path",
                "task_shim",
                "task_shim_config",
            ]
            .contains(&key);
            if bare.starts_with('[') || (known && bare.contains(" = ")) {
                bare.to_owned()
            } else {
                line.to_owned()
            }
        };
        DEFAULT.lines().map(example).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_documented_defaults_are_the_defaults_and_leave_no_key_out() {
        let path = Path::new("default.toml");
        assert_eq!(File::parse(path, DEFAULT).unwrap(), File::default());
        let own: toml::Table = toml::from_str(&toml::to_string(&File::default()).unwrap()).unwrap();
        for (key, value) in &own {
            let Some(table) = value.as_table().filter(|t| !t.is_empty()) else {
                assert!(
                    key == "registries" || line_of(DEFAULT, key).is_some(),
                    "{key}"
                );
                continue;
            };
            let inner = if key == "runtimes" {
                "runtimes.rrun"
            } else {
                key
            };
            let table = if key == "runtimes" {
                table["rrun"].as_table().unwrap()
            } else {
                table
            };
            for name in table.keys() {
                assert!(
                    line_of(DEFAULT, &format!("{inner}.{name}")).is_some(),
                    "{inner}.{name}"
                );
            }
        }
        let file = File::parse(path, &with_examples()).unwrap();
        assert_eq!(file.registries["registry.example.com"].username, "user");
        assert_eq!(file.runtimes["crun"].path, Path::new("/usr/bin/crun"));
    }

    #[test]
    fn an_error_names_line_and_key() {
        let cases = [
            ("listn = \"x\"\n", ":1: listn: unknown field `listn`"),
            (
                "version = 1\n\n[nri]\nenable = 3\n",
                ":4: nri.enable: invalid type",
            ),
            (
                "[nri]\nrequest_timeout = \"5 parsecs\"\n",
                ":2: nri.request_timeout: \"5 parsecs\"",
            ),
            (
                "[runtimes.crun]\npth = \"/x\"\n",
                ":2: runtimes.crun.pth: unknown field",
            ),
            (
                "version = 9\n",
                ":1: version 9: this program reads version 1",
            ),
            (
                "stream_listen = \"here\"\n",
                ":1: stream_listen: invalid socket address",
            ),
            ("listen = \n", ":1: listen:"),
        ];
        for (text, wanted) in cases {
            let error = File::parse(Path::new("/c.toml"), text).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.starts_with(&format!("/c.toml{wanted}")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["500ms", "5s", "2m"] {
            let file = format!("[nri]\nrequest_timeout = \"{text}\"\n");
            let file = File::parse(Path::new("c"), &file).unwrap();
            assert!(
                toml::to_string(&file)
                    .unwrap()
                    .contains(&format!("\"{text}\""))
            );
        }
        for text in ["0s", "-1s", "s", "5", "99999999999s"] {
            let file = format!("[nri]\nrequest_timeout = \"{text}\"\n");
            assert!(File::parse(Path::new("c"), &file).is_err(), "{text}");
        }
    }
}
