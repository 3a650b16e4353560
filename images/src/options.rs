//! What a pull or push may be told.

use crate::{Limits, Platform};

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// What the configuration files of docker and podman have for the registry
    /// (`$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`, `$DOCKER_CONFIG` or
    /// `~/.docker/config.json`, with credential helpers), else none.
    #[default]
    FromFiles,
    /// None, whatever the files have.
    Anonymous,
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A refresh token, exchanged for access tokens (OAuth2).
    IdentityToken(String),
    /// An access token, sent as it is.
    RegistryToken(String),
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FromFiles => "FromFiles",
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

/// How to reach registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// How to log in.
    pub credentials: Credentials,
    /// Registries (`host` or `host:port`) that are spoken to without TLS. Loopback addresses
    /// are without being listed; nothing else is.
    pub plain_http: Vec<String>,
    /// Files or directories of PEM certificates that are trusted beside the system's.
    pub ca_files: Vec<std::path::PathBuf>,
    /// Directory of mirrors and connection settings in containerd's format
    /// (`<registry>/hosts.toml`); `plain_http` and `ca_files` are not asked where it has a file.
    pub hosts_dir: Option<std::path::PathBuf>,
    /// Mirrors, rewrites and blocks in the containers format (`registries.conf`, version 2), asked
    /// where `hosts_dir` has no file for the registry. `None` reads what this machine has:
    /// `$CONTAINERS_REGISTRIES_CONF`, else `~/.config/containers/registries.conf`, else
    /// `/etc/containers/registries.conf`, each with `registries.conf.d`.
    pub registries_conf: Option<std::path::PathBuf>,
    /// How often a request is made, and a transfer taken up, that breaks off, the first time
    /// included; the pauses between grow to a minute. 0 is the default of 5. A mirror is asked
    /// twice.
    pub attempts: u32,
}

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// How to reach the registry.
    pub registry: RegistryOptions,
    /// Which platform's image; this machine's where it is `None`.
    pub platform: Option<Platform>,
    /// Bounds against hostile layers.
    pub limits: Limits,
    /// Layers are kept unpacked only. Without it the store holds them as fetched too, so that
    /// `push` and `save` need no registry.
    pub discard_blobs: bool,
    /// Which images are taken (`policy.json` of the containers tools). `None` is what this machine
    /// has: `~/.config/containers/policy.json`, else `/etc/containers/policy.json`, else all are.
    pub policy: Option<std::path::PathBuf>,
    /// Layers fetched at the same time; 0 is the default of 4.
    pub parallel: usize,
}
