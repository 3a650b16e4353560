//! What of a process and of its container's configuration an exec in this process needs.
//!
//! A field that is not named here makes the JSON one that the runtime has to read: what this
//! program does not know it does not leave out.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::path::PathBuf;

/// `process` (runtime-spec, config.md#process).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    #[serde(default)]
    pub terminal: bool,
    /// Only of interest with a terminal.
    #[serde(default, rename = "consoleSize")]
    _console_size: Option<IgnoredAny>,
    #[serde(default)]
    pub user: User,
    pub args: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    #[serde(default)]
    pub cwd: PathBuf,
    pub capabilities: Option<Capabilities>,
    pub rlimits: Option<Vec<Rlimit>>,
    #[serde(default)]
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub apparmor_profile: Option<String>,
    pub selinux_label: Option<String>,
}

/// `process.user`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    pub umask: Option<u32>,
    pub additional_gids: Option<Vec<u32>>,
    /// For Windows; containerd sends it all the same.
    #[serde(default, rename = "username")]
    _username: Option<IgnoredAny>,
}

/// `process.capabilities`, by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    pub bounding: Option<Vec<String>>,
    pub effective: Option<Vec<String>>,
    pub inheritable: Option<Vec<String>>,
    pub permitted: Option<Vec<String>>,
    pub ambient: Option<Vec<String>>,
}

/// One of `process.rlimits`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub hard: u64,
    pub soft: u64,
}

/// The part of config.json that says where an exec goes.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub linux: Linux,
}

/// `linux`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    pub namespaces: Option<Vec<Namespace>>,
    pub seccomp: Option<IgnoredAny>,
    pub personality: Option<IgnoredAny>,
    pub memory_policy: Option<IgnoredAny>,
}

/// One of `linux.namespaces`.
#[derive(Debug, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: String,
}
