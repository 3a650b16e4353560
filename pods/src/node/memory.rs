//! What a pod's worker knows beside the pod and the CRI: probe results, failures, what is under way.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use rrun_cri_api::v1::ContainerState;

use super::backoff::BackOff;
use super::resize::Pending;
use super::runtime::{self, Runtime};

/// A step that failed, and may be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: String,
    /// What went wrong.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// Of one container name.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The container (by CRI id) that the probe results are of.
    pub id: String,
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe's last result; true without one.
    pub ready: bool,
    /// Why a running container is to be killed: a probe failed for good.
    pub condemned: Option<(String, String)>,
    /// Waits after crashes.
    pub crashes: BackOff,
    /// Waits after steps that failed (pull, create, start).
    pub retries: BackOff,
    /// The last failed step, until one succeeds.
    pub failure: Option<Failure>,
}

/// Of one pod.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By container name.
    pub parts: HashMap<String, Part>,
    /// Containers with a start or a stop under way; `""` is the sandbox.
    pub busy: HashSet<String>,
    /// Those of them that are being started, up to the end of their postStart hook.
    pub starting: HashSet<String>,
    /// Why the sandbox could not be made.
    pub sandbox_failure: Option<Failure>,
    /// Waits after sandbox failures.
    pub sandbox_retries: BackOff,
    /// Why the node does not give the pod what it now asks for.
    pub resize: Option<Pending>,
}

impl Memory {
    /// The part of a container name; a default one where nothing is known.
    pub fn part(&self, name: &str) -> Part {
        self.parts.get(name).cloned().unwrap_or_default()
    }

    /// Whether a container's start is not over though it may run: its postStart hook is yet to end. Until
    /// then it is neither running nor ready to anybody else.
    pub fn is_hooked(&self, container: &Container) -> bool {
        let hooks = container.lifecycle.as_ref();
        hooks.is_some_and(|l| l.post_start.is_some()) && self.starting.contains(&container.name)
    }

    /// A new sandbox is a new chance for what did not start, perhaps because the old one was lost;
    /// an image that could not be pulled still cannot.
    pub fn forget_starts(&mut self) {
        for part in self.parts.values_mut() {
            let image = |f: &Failure| f.reason.contains("Image");
            if !part.failure.as_ref().is_some_and(image) {
                part.retries = BackOff::default();
            }
        }
    }

    /// What the loss of the runtime made fail is tried again at once when it is back.
    pub fn forgive(&mut self) {
        self.sandbox_retries = BackOff::default();
        self.forget_starts();
    }

    /// Takes notice of containers that are new: their probes have yet to say something. A
    /// container that this process did not start is believed to be as the stored status says.
    pub fn notice(&mut self, pod: &Pod, runtime: &Runtime) {
        for container in every_container(pod) {
            let Some(status) = runtime.newest(&container.name) else {
                continue;
            };
            let part = self.parts.entry(container.name.clone()).or_default();
            if part.id == status.id {
                continue;
            }
            let adopted = part.id.is_empty();
            part.id.clone_from(&status.id);
            part.condemned = None;
            part.started = container.startup_probe.is_none();
            part.ready = container.readiness_probe.is_none();
            if adopted {
                adopt(part, pod, &container, status);
            }
        }
    }
}

fn adopt(
    part: &mut Part,
    pod: &Pod,
    container: &Container,
    status: &rrun_cri_api::v1::ContainerStatus,
) {
    if status.state() == ContainerState::ContainerExited {
        let count = runtime::restarts(status);
        part.crashes = BackOff::resumed(count, nanos(status.finished_at));
    }
    let Some(stored) = stored_status(pod, &container.name) else {
        return;
    };
    let id = stored.container_id.as_deref().unwrap_or_default();
    if !status.id.is_empty() && id.ends_with(&status.id) {
        part.started |= stored.started == Some(true);
        part.ready |= stored.ready;
    }
}

/// Every container of the pod: init, main and ephemeral.
pub fn every_container(pod: &Pod) -> Vec<Container> {
    let Some(spec) = &pod.spec else { return vec![] };
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let init = spec.init_containers.iter().flatten().cloned();
    init.chain(spec.containers.iter().cloned())
        .chain(ephemeral.map(as_container))
        .collect()
}

/// An ephemeral container as a plain one: the fields have the same names.
pub fn as_container(ephemeral: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    serde_json::to_value(ephemeral)
        .and_then(serde_json::from_value)
        .unwrap_or_else(|_| Container {
            name: ephemeral.name.clone(),
            ..Container::default()
        })
}

/// The stored status of a container of the pod.
pub fn stored_status<'a>(
    pod: &'a Pod,
    name: &str,
) -> Option<&'a k8s_openapi::api::core::v1::ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == name)
}

/// CRI's nanoseconds as a time of whole seconds, as the API stores it.
pub fn nanos(nanos: i64) -> Timestamp {
    Timestamp::from_second(nanos / 1_000_000_000).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(reason: &str) -> Part {
        let at = Timestamp::UNIX_EPOCH;
        let mut part = Part {
            failure: Some(Failure {
                reason: reason.to_owned(),
                message: String::new(),
                at,
            }),
            ..Part::default()
        };
        part.retries.next(at);
        part
    }

    #[test]
    fn a_new_sandbox_forgets_starts_and_not_pulls() {
        let mut memory = Memory::default();
        for reason in ["CreateContainerError", "ErrImagePull", "ImagePullBackOff"] {
            memory.parts.insert(reason.to_owned(), failed(reason));
        }
        memory.forget_starts();
        let wait = |reason: &str| memory.part(reason).retries.seconds();
        assert_eq!(wait("CreateContainerError"), 0);
        assert_eq!(wait("ErrImagePull"), 10);
        assert_eq!(wait("ImagePullBackOff"), 10);
    }
}
