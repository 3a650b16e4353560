//! CRI configuration and image configuration → config.json, as pure data. What has to be read
//! from the machine is in [`Facts`], so that everything here is tested without root.

mod annotations;
mod capabilities;
mod linux;
mod mounts;
mod process;
pub mod seccomp;
mod signal;
mod users;

use std::path::PathBuf;

use rrun_cri_api::v1;
use rrun_images::ImageConfig;
use serde_json::{Value, json};

use crate::error::Result;
use crate::sandbox::IdMaps;
use crate::store::{ContainerRecord, SandboxRecord};

pub use linux::{asked_seccomp, resources};
pub use mounts::{MountFact, Source};
pub use process::exec_process;
pub use signal::{stop_signal, to_cri as signal_to_cri};
pub use users::{User, UserFiles};

/// What was read from the machine and the image.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The image's configuration.
    pub image: ImageConfig,
    /// `/etc/passwd` and `/etc/group` of the image.
    pub users: UserFiles,
    /// Options of the overlay mount on `/`.
    pub rootfs: Vec<String>,
    /// One for each of the container's mounts, in their order.
    pub mounts: Vec<MountFact>,
    /// Volumes that the image declares: path in the container and directory of the machine.
    pub volumes: Vec<(String, PathBuf)>,
    /// Device nodes asked for, or all of the machine's where it is privileged.
    pub devices: Vec<DeviceNode>,
    /// Directory of the sandbox's files and pins.
    pub sandbox_dir: PathBuf,
    /// Pid namespace to join, where it is not the container's own or the machine's.
    pub pid_namespace: Option<PathBuf>,
    /// Maps of the pod's user namespace; `None` for the machine's.
    pub users_of_pod: Option<IdMaps>,
    /// The cgroup of the container, as the runtime wants it in `cgroupsPath`.
    pub cgroup: String,
    /// Pure cgroup version 2.
    pub unified: bool,
    /// The kernel accounts for swap, so that memory and swap can be limited together.
    pub swap_limit: bool,
    /// The machine's seccomp profile, where one is asked for.
    pub seccomp_profile: Option<(String, String)>,
    /// The kernel has seccomp filters.
    pub seccomp: bool,
    /// AppArmor is there.
    pub apparmor: bool,
    /// Capabilities in the daemon's permitted set.
    pub held_capabilities: u64,
    /// The lowest oom_score_adj that the daemon may give (itself without CAP_SYS_RESOURCE).
    pub oom_floor: i64,
    /// `std::env::consts::ARCH`.
    pub arch: String,
}

/// A device node of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// `b` or `c`.
    pub kind: String,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the cgroup allows: a subset of `rwm`.
    pub access: String,
}

/// The bundle to write.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// config.json.
    pub spec: Value,
    /// The user of the first process, for ContainerStatus.
    pub user: User,
}

/// What the functions here work from.
pub(crate) struct Input<'a> {
    /// The sandbox's record.
    pub sandbox: &'a SandboxRecord,
    /// The container's record.
    pub container: &'a ContainerRecord,
    /// Everything read.
    pub facts: &'a Facts,
    /// Security context of the container; an absent one reads as empty.
    pub security: v1::LinuxContainerSecurityContext,
}

impl Input<'_> {
    fn config(&self) -> &v1::ContainerConfig {
        self.container.config()
    }
}

/// Makes the bundle of a container.
pub fn bundle(
    sandbox: &SandboxRecord,
    container: &ContainerRecord,
    facts: &Facts,
) -> Result<Bundle> {
    let linux = container.config().linux.as_ref();
    let security = linux.and_then(|l| l.security_context.clone());
    let input = Input {
        sandbox,
        container,
        facts,
        security: security.unwrap_or_default(),
    };
    let user = users::resolve(&input.security, &facts.image.user, &facts.users)?;
    let (process, capabilities) = process::process(&input, &user)?;
    let (mounts, propagation) = mounts::mounts(&input)?;
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": "rootfs", "readonly": input.security.readonly_rootfs},
        "mounts": mounts,
        "annotations": annotations::annotations(&input),
        "linux": linux::linux(&input, &capabilities)?,
    });
    if let Some(propagation) = propagation {
        spec["linux"]["rootfsPropagation"] = json!(propagation);
    }
    Ok(Bundle { spec, user })
}

#[cfg(test)]
mod tests;
