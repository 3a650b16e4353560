//! The configuration: a TOML file, flags before it, checked once. What a SIGHUP may change is
//! [`Live`]; the rest is for the daemon's life.

pub mod command;
pub mod file;
mod flags;
mod live;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rrun_images::LayerFormat;

use crate::network::NetworkConfig;
use crate::trace;
use file::{AskedDriver, File};

pub use file::{AskedSelinux, LogFormat};
pub use flags::Flags;
pub use live::{Behind, Live, Runtime};

/// Who makes the cgroups of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime, in `/sys/fs/cgroup`.
    Cgroupfs,
    /// systemd, by transient scopes.
    Systemd,
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
    /// What its new layers are kept as.
    pub layer_format: LayerFormat,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Of the streaming server.
    pub stream_listen: SocketAddr,
    /// Of the metrics, where they are asked for.
    pub metrics: Option<Endpoint>,
    /// Of pods.
    pub network: NetworkConfig,
    /// Of NRI plugins.
    pub nri: file::Nri,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where traces go and how many of a million are begun, where they are asked for.
    pub traces: Option<(trace::Endpoint, u32)>,
    /// Where files of CDI devices are, the least important first.
    pub cdi_dirs: Vec<PathBuf>,
    /// Which containers get an SELinux label.
    pub selinux: AskedSelinux,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Where values came from, for errors.
pub(crate) struct Origin {
    path: PathBuf,
    text: String,
    given: flags::Given,
}

impl Origin {
    /// `--flag`, `/etc/rrun/cri.toml:12: key`, or the key alone for a default.
    fn of(&self, key: &str) -> String {
        if let Some(flag) = self.given.get(key) {
            return (*flag).to_owned();
        }
        match file::line_of(&self.text, key) {
            Some(line) => format!("{}:{line}: {key}", self.path.display()),
            None => format!("default of {key}"),
        }
    }
}

/// Reads the file that the flags name, puts the flags before it, and checks the result.
pub fn load(flags: &Flags) -> Result<(Config, Live)> {
    let (file, origin) = read(flags)?;
    Ok((Config::check(&file, &origin)?, Live::check(&file, &origin)?))
}

fn read(flags: &Flags) -> Result<(File, Origin)> {
    let path = flags.config.clone().unwrap_or_else(|| flags::PATH.into());
    let (mut file, text) = File::read(&path, flags.config.is_some())?;
    let given = flags.apply(&mut file);
    Ok((file, Origin { path, text, given }))
}

/// The socket that a daemon of these flags serves.
pub fn socket(flags: &Flags) -> Result<PathBuf> {
    let (file, origin) = read(flags)?;
    Ok(Config::check(&file, &origin)?.socket)
}

impl Config {
    fn check(file: &File, origin: &Origin) -> Result<Self> {
        let socket = file.listen.strip_prefix("unix://").unwrap_or(&file.listen);
        if !socket.starts_with('/') {
            bail!(
                "{} {:?}: give unix:///absolute/path",
                origin.of("listen"),
                file.listen
            );
        }
        for (key, path) in [
            ("root", &file.root),
            ("state", &file.state),
            ("images.store", &file.images.store),
            ("network.cni_conf_dir", &file.network.cni_conf_dir),
            ("nri.socket", &file.nri.socket),
            ("nri.plugin_dir", &file.nri.plugin_dir),
            ("nri.plugin_config_dir", &file.nri.plugin_config_dir),
        ] {
            absolute(origin, key, path)?;
        }
        for dir in &file.cdi_spec_dirs {
            absolute(origin, "cdi_spec_dirs", dir)?;
        }
        crate::network::check_subnet(&file.network.subnet)
            .with_context(|| origin.of("network.subnet"))?;
        let network = NetworkConfig {
            root: file.root.join("network"),
            state: file.state.join("network"),
            cni_conf_dir: file.network.cni_conf_dir.clone(),
            cni_bin_dirs: file.network.cni_bin_dirs.clone(),
            bridge: interface(origin, &file.network.bridge)?,
            subnet: file.network.subnet.clone(),
        };
        Ok(Self {
            socket: socket.into(),
            store: file.images.store.clone(),
            layer_format: file
                .images
                .snapshotter
                .parse()
                .with_context(|| origin.of("images.snapshotter"))?,
            cgroup_driver: driver(file.cgroup_driver),
            stream_listen: file.stream_listen,
            metrics: endpoint(origin, "metrics_listen", &file.metrics_listen)?,
            network,
            nri: file.nri.clone(),
            log_format: file.log_format,
            traces: traces(origin, &file.tracing)?,
            cdi_dirs: file.cdi_spec_dirs.clone(),
            selinux: file.selinux,
            root: file.root.clone(),
            state: file.state.clone(),
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

fn absolute(origin: &Origin, key: &str, path: &Path) -> Result<()> {
    if !path.is_absolute() {
        bail!(
            "{} {}: the path is not absolute",
            origin.of(key),
            path.display()
        );
    }
    Ok(())
}

/// IFNAMSIZ of linux/if.h: 16 with the zero byte.
fn interface(origin: &Origin, name: &str) -> Result<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > 15 || !name.bytes().all(good) {
        bail!(
            "{} {name:?}: at most 15 letters, digits, dots and dashes",
            origin.of("network.bridge")
        );
    }
    Ok(name.to_owned())
}

fn endpoint(origin: &Origin, key: &str, text: &str) -> Result<Option<Endpoint>> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(path) = text.strip_prefix("unix://").filter(|p| p.starts_with('/')) {
        return Ok(Some(Endpoint::Unix(path.into())));
    }
    match text.parse() {
        Ok(address) => Ok(Some(Endpoint::Tcp(address))),
        Err(_) => bail!(
            "{} {text:?}: give address:port or unix:///path",
            origin.of(key)
        ),
    }
}

fn traces(origin: &Origin, given: &file::Tracing) -> Result<Option<(trace::Endpoint, u32)>> {
    let rate = given.sampling_rate_per_million;
    if rate > trace::MILLION {
        let key = origin.of("tracing.sampling_rate_per_million");
        bail!("{key} {rate}: at most {}", trace::MILLION);
    }
    if given.endpoint.is_empty() {
        return Ok(None);
    }
    let endpoint = trace::Endpoint::parse(&given.endpoint);
    let key = || format!("{} {:?}", origin.of("tracing.endpoint"), given.endpoint);
    Ok(Some((endpoint.with_context(key)?, rate)))
}

/// sd_booted(3), and the one hierarchy in which systemd delegates whole scopes.
fn driver(asked: AskedDriver) -> CgroupDriver {
    let booted = || {
        Path::new("/run/systemd/system").is_dir()
            && Path::new("/sys/fs/cgroup/cgroup.controllers").is_file()
    };
    match asked {
        AskedDriver::Systemd => CgroupDriver::Systemd,
        AskedDriver::Auto if booted() => CgroupDriver::Systemd,
        AskedDriver::Auto | AskedDriver::Cgroupfs => CgroupDriver::Cgroupfs,
    }
}

/// What was given, else the program beside this one, else on PATH.
fn program(origin: &Origin, key: &str, given: &Path, name: &str) -> Result<PathBuf> {
    if !given.as_os_str().is_empty() {
        let found = given.canonicalize();
        return found.with_context(|| format!("{} {}", origin.of(key), given.display()));
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
                "{name} is neither beside {} nor on PATH: install it, or set {key}",
                own.display()
            )
        })
}

/// Keys in which two files differ, of those that a reload cannot change.
pub fn needs_restart(old: &File, new: &File) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut differ = |key, differs: bool| {
        if differs {
            keys.push(key);
        }
    };
    differ("listen", old.listen != new.listen);
    differ("root", old.root != new.root);
    differ("state", old.state != new.state);
    differ("log_format", old.log_format != new.log_format);
    differ("cgroup_driver", old.cgroup_driver != new.cgroup_driver);
    differ("stream_listen", old.stream_listen != new.stream_listen);
    differ("metrics_listen", old.metrics_listen != new.metrics_listen);
    differ("tracing", old.tracing != new.tracing);
    differ("cdi_spec_dirs", old.cdi_spec_dirs != new.cdi_spec_dirs);
    differ("images.store", old.images.store != new.images.store);
    let (was, is) = (&old.images.snapshotter, &new.images.snapshotter);
    differ("images.snapshotter", was != is);
    differ("network", old.network != new.network);
    differ("nri", old.nri != new.nri);
    keys
}

/// The file as a table, for `config show`.
pub(crate) fn effective(flags: &Flags) -> Result<File> {
    let (file, origin) = read(flags)?;
    Config::check(&file, &origin)?;
    Live::check(&file, &origin)?;
    Ok(file)
}

type Named<T> = BTreeMap<String, T>;

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str, given: &[(&'static str, &'static str)]) -> (File, Origin) {
        let path = PathBuf::from("/c.toml");
        let file = File::parse(&path, text).unwrap();
        let given = given.iter().copied().collect();
        (
            file,
            Origin {
                path,
                text: text.into(),
                given,
            },
        )
    }

    fn refused(text: &str) -> String {
        let (file, origin) = origin(text, &[]);
        format!("{:#}", Config::check(&file, &origin).unwrap_err())
    }

    #[test]
    fn a_bad_value_is_named_by_where_it_came_from() {
        assert_eq!(
            refused("\nroot = \"here\"\n"),
            "/c.toml:2: root here: the path is not absolute"
        );
        let error = refused("[network]\nsubnet = \"10.88/16\"\n");
        assert!(error.starts_with("/c.toml:2: network.subnet"), "{error}");
        let error = refused("[network]\nbridge = \"much-too-long-for-one\"\n");
        assert!(error.starts_with("/c.toml:2: network.bridge"), "{error}");
        let error = refused("metrics_listen = \"9475\"\n");
        assert!(error.starts_with("/c.toml:1: metrics_listen"), "{error}");
        let error = refused("[tracing]\nendpoint = \"https://x\"\n");
        assert!(error.starts_with("/c.toml:2: tracing.endpoint"), "{error}");
        let (file, origin) = origin("listen = \"x\"\n", &[("listen", "--listen")]);
        let error = Config::check(&file, &origin).unwrap_err().to_string();
        assert!(error.starts_with("--listen"), "{error}");
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let mut file = File::parse(Path::new("c"), "root = \"/a\"\nstate = \"/b\"\n").unwrap();
        let flags = Flags {
            root: Some("/flag".into()),
            state: Some("/other".into()),
            ..Flags::default()
        };
        let given = flags.apply(&mut file);
        assert_eq!((file.root, file.state), ("/flag".into(), "/other".into()));
        assert_eq!(file.nri.socket, Path::new("/other/nri.sock"));
        assert_eq!(given["root"], "--root");
    }

    #[test]
    fn a_reload_tells_what_it_cannot_change() {
        let old = File::default();
        let mut new = old.clone();
        new.log = "debug".into();
        new.images.plain_http = vec!["x".into()];
        assert!(needs_restart(&old, &new).is_empty());
        new.network.bridge = "other".into();
        new.root = "/elsewhere".into();
        assert_eq!(needs_restart(&old, &new), ["root", "network"]);
    }
}
