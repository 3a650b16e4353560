//! The durable records: what was asked for, and how far it got.
//!
//! ```text
//! sandbox    Creating ─▶ Ready ─▶ Stopping ─▶ Stopped ─▶ Removing ─▶ (no record)
//! container  Creating ─▶ Created ─▶ Starting ─▶ Running ─▶ Exited ─▶ Removing ─▶ (no record)
//! ```
//!
//! Each arrow is written before the side effects that follow it. A record in a state that ends in
//! -ing at start-up is work that a kill -9 cut short: Creating is undone, Starting is looked at
//! (the shim knows), Stopping and Removing are finished.
//!
//! They are protobuf, so a newer version's fields are skipped and an older version's are absent.

use std::sync::LazyLock;

use rrun_cri_api::v1;

/// Version of the records that this code writes.
pub const VERSION: u32 = 1;

/// How far a sandbox got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SandboxPhase {
    /// Never written.
    Unknown = 0,
    /// Namespaces, files and network are being made.
    Creating = 1,
    /// Containers can be created.
    Ready = 2,
    /// Containers, network and namespaces are being taken down.
    Stopping = 3,
    /// Only the record, its files and stopped containers are left.
    Stopped = 4,
    /// Everything is being removed.
    Removing = 5,
}

/// How far a container got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerPhase {
    /// Never written.
    Unknown = 0,
    /// Directories and bundle are being made.
    Creating = 1,
    /// The bundle is whole; there is no process.
    Created = 2,
    /// A shim is being started.
    Starting = 3,
    /// The shim has started the process.
    Running = 4,
    /// The process has ended, or could not be started.
    Exited = 5,
    /// Everything is being removed.
    Removing = 6,
}

impl std::fmt::Display for SandboxPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

impl std::fmt::Display for ContainerPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// A pod sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SandboxRecord {
    /// [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// 64 hexadecimal digits.
    #[prost(string, tag = "2")]
    pub id: String,
    /// How far it got.
    #[prost(enumeration = "SandboxPhase", tag = "3")]
    pub phase: i32,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// As the client gave it, later changed by UpdatePodSandboxResources.
    #[prost(message, optional, tag = "5")]
    pub config: Option<v1::PodSandboxConfig>,
    /// As the client gave it.
    #[prost(string, tag = "6")]
    pub runtime_handler: String,
    /// Addresses, the main one first.
    #[prost(string, repeated, tag = "7")]
    pub ips: Vec<String>,
    /// The cgroup below which the containers' are made.
    #[prost(string, tag = "8")]
    pub cgroup_parent: String,
    /// Ancestors of the containers' cgroups that did not exist before, deepest first: removed
    /// with the sandbox where they are empty.
    #[prost(string, repeated, tag = "9")]
    pub cgroups_made: Vec<String>,
    /// Boot in which the namespaces were made.
    #[prost(string, tag = "10")]
    pub boot_id: String,
    /// The limits in the configuration are the runtime's to keep: the client named a cgroup for the pod and
    /// left it to the runtime to make it, or UpdatePodSandboxResources has set them.
    #[prost(bool, tag = "11")]
    pub limits_set: bool,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRecord {
    /// [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// 64 hexadecimal digits.
    #[prost(string, tag = "2")]
    pub id: String,
    /// How far it got.
    #[prost(enumeration = "ContainerPhase", tag = "3")]
    pub phase: i32,
    /// Id of its sandbox.
    #[prost(string, tag = "4")]
    pub sandbox_id: String,
    /// As the client gave it, later changed by UpdateContainerResources.
    #[prost(message, optional, tag = "5")]
    pub config: Option<v1::ContainerConfig>,
    /// `sha256:…` of the image's configuration.
    #[prost(string, tag = "6")]
    pub image_id: String,
    /// `repository@digest` where known, else the id.
    #[prost(string, tag = "7")]
    pub image_ref: String,
    /// Nanoseconds since the epoch; 0 where it has not happened.
    #[prost(int64, tag = "8")]
    pub created_at: i64,
    /// As `created_at`.
    #[prost(int64, tag = "9")]
    pub started_at: i64,
    /// As `created_at`.
    #[prost(int64, tag = "10")]
    pub finished_at: i64,
    /// 128 + signal where one ended it.
    #[prost(int32, tag = "11")]
    pub exit_code: i32,
    /// Completed, Error, OOMKilled, StartError or Unknown; empty until it exited.
    #[prost(string, tag = "12")]
    pub reason: String,
    /// For people.
    #[prost(string, tag = "13")]
    pub message: String,
    /// First process on the host; 0 without one.
    #[prost(uint32, tag = "14")]
    pub pid: u32,
    /// Start time of the process in clock ticks since boot; 0 if not known.
    #[prost(uint64, tag = "15")]
    pub pid_start: u64,
    /// `unix:///…`, empty before a shim was started.
    #[prost(string, tag = "16")]
    pub shim_address: String,
    /// Absolute; empty without a log.
    #[prost(string, tag = "17")]
    pub log_path: String,
    /// Number on this machine.
    #[prost(uint32, tag = "18")]
    pub stop_signal: u32,
    /// User of the first process.
    #[prost(message, optional, tag = "19")]
    pub user: Option<v1::LinuxContainerUser>,
    /// Boot in which it was started.
    #[prost(string, tag = "20")]
    pub boot_id: String,
    /// One for each mount of the configuration: the id of the image that it is of, else empty.
    #[prost(string, repeated, tag = "21")]
    pub mount_images: Vec<String>,
    /// The archive that it is made from; empty for a container from scratch.
    #[prost(string, tag = "22")]
    pub checkpoint: String,
}

static NO_SANDBOX: LazyLock<v1::PodSandboxConfig> = LazyLock::new(Default::default);
static NO_CONTAINER: LazyLock<v1::ContainerConfig> = LazyLock::new(Default::default);

/// What the store needs of a record.
pub trait Record: prost::Message + Default + Clone + PartialEq + 'static {
    /// The key.
    fn id(&self) -> &str;
    /// Version of the format it was written in.
    fn version(&self) -> u32;
}

impl Record for SandboxRecord {
    fn id(&self) -> &str {
        &self.id
    }
    fn version(&self) -> u32 {
        self.version
    }
}

impl Record for ContainerRecord {
    fn id(&self) -> &str {
        &self.id
    }
    fn version(&self) -> u32 {
        self.version
    }
}

impl SandboxRecord {
    /// The configuration; an absent one reads as empty.
    pub fn config(&self) -> &v1::PodSandboxConfig {
        self.config.as_ref().unwrap_or(&NO_SANDBOX)
    }

    /// Name, namespace, uid and attempt.
    pub fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config().metadata.clone().unwrap_or_default()
    }

    /// The namespaces asked for.
    pub fn namespaces(&self) -> v1::NamespaceOption {
        let linux = self.config().linux.as_ref();
        linux
            .and_then(|l| l.security_context.as_ref())
            .and_then(|s| s.namespace_options.clone())
            .unwrap_or_default()
    }

    /// Whether the pod is in the machine's own network.
    pub fn host_network(&self) -> bool {
        self.namespaces().network() == v1::NamespaceMode::Node
    }
}

impl ContainerRecord {
    /// The configuration; an absent one reads as empty.
    pub fn config(&self) -> &v1::ContainerConfig {
        self.config.as_ref().unwrap_or(&NO_CONTAINER)
    }

    /// Name and attempt.
    pub fn metadata(&self) -> v1::ContainerMetadata {
        self.config().metadata.clone().unwrap_or_default()
    }

    /// The state as CRI has it. A container whose creation is not finished is not told of.
    pub fn state(&self) -> v1::ContainerState {
        match self.phase() {
            ContainerPhase::Unknown => v1::ContainerState::ContainerUnknown,
            ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Starting => {
                v1::ContainerState::ContainerCreated
            }
            ContainerPhase::Running => v1::ContainerState::ContainerRunning,
            // Removal kills first; what it ends with is only known once it has exited.
            ContainerPhase::Removing if self.finished_at == 0 => {
                v1::ContainerState::ContainerUnknown
            }
            ContainerPhase::Exited | ContainerPhase::Removing => {
                v1::ContainerState::ContainerExited
            }
        }
    }
}
