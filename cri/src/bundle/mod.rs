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

use crate::config::AskedSelinux;
use crate::error::Result;
use crate::sandbox::IdMaps;
use crate::selinux::{self, Labels};
use crate::store::{ContainerRecord, SandboxRecord};

pub use linux::{asked_seccomp, resources};
pub use mounts::{MountFact, Source};
pub use process::{AskedAppArmor, asked_apparmor, exec_process};
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
    /// What the pod calls itself: its own name, or the machine's.
    pub hostname: String,
    /// Pid namespace to join, where it is not the container's own or the machine's.
    pub pid_namespace: Option<PathBuf>,
    /// Maps of the pod's user namespace; `None` for the machine's.
    pub users_of_pod: Option<IdMaps>,
    /// The cgroup of the container, as the runtime wants it in `cgroupsPath`.
    pub cgroup: String,
    /// Pure cgroup version 2.
    pub unified: bool,
    /// What the kernel can limit.
    pub limits: Limits,
    /// The machine's seccomp profile, where one is asked for.
    pub seccomp_profile: Option<(String, String)>,
    /// The kernel has seccomp filters.
    pub seccomp: bool,
    /// Who gets SELinux labels, where it is there. They mean nothing elsewhere, and are no reason to
    /// refuse a pod.
    pub selinux: Option<AskedSelinux>,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// It has the default profile; not looked at unless it is asked for.
    pub apparmor_default: bool,
    /// Capabilities in the daemon's permitted set.
    pub held_capabilities: u64,
    /// The lowest oom_score_adj that the daemon may give (itself without CAP_SYS_RESOURCE).
    pub oom_floor: i64,
    /// `std::env::consts::ARCH`.
    pub arch: String,
}

/// What not every kernel can limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory and swap together.
    pub swap: bool,
    /// Huge pages. A kubelet limits them in every container, with 0 where the pod has none.
    pub hugetlb: bool,
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

    fn labels(&self) -> Option<Labels> {
        let pod = self.sandbox.config().linux.as_ref();
        let pod = pod.and_then(|l| l.security_context.as_ref());
        let none = v1::SeLinuxOption::default();
        let own = self.security.selinux_options.as_ref();
        let own = own.filter(|options| **options != none);
        let options = own.or_else(|| pod?.selinux_options.as_ref());
        let namespaces = self.security.namespace_options.clone().unwrap_or_default();
        let node = v1::NamespaceMode::Node as i32;
        let asked = selinux::Asked {
            options: options.unwrap_or(&none),
            level: selinux::level(&self.sandbox.id),
            unconfined: self.security.privileged
                || namespaces.pid == node
                || self.sandbox.namespaces().ipc == node,
        };
        selinux::labels(&asked, self.facts.selinux)
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
        // All 1.x are the same to who knows a field; crun 1.8 (Debian 12's) refuses later ones.
        "ociVersion": "1.0.2",
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

/// The array at a key, made where there is none.
pub fn list<'a>(value: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let slot = &mut value[key];
    if !slot.is_array() {
        *slot = json!([]);
    }
    slot.as_array_mut().expect("it was just made an array")
}

#[cfg(test)]
mod tests;
