//! The pod's status, as the kubelet words it: a pure function of the same things as the plan.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rrun_cri_api::v1::{self as cri, ContainerState};

use super::memory::{Memory, as_container, nanos, stored_status};
use super::runtime::{Runtime, restarts};
use super::{conditions, names, security};
use crate::resources::{is_sidecar, qos_class};

/// What the status depends on.
pub struct Inputs<'a> {
    /// The pod with its stored status.
    pub pod: &'a Pod,
    /// What the CRI says.
    pub runtime: &'a Runtime,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// The runtime's name, for container ids (`rrun://…`).
    pub runtime_name: &'a str,
    /// The node's address.
    pub host_ip: &'a str,
    /// Whether the pod is to end by the worker's own decision: (reason, message).
    pub ending: Option<(&'a str, &'a str)>,
    /// Now.
    pub now: Timestamp,
}

/// The status that the pod should have.
pub fn status(inputs: &Inputs) -> PodStatus {
    let pod = inputs.pod;
    let spec = pod.spec.clone().unwrap_or_default();
    let stored = pod.status.clone().unwrap_or_default();
    let init_list = spec.init_containers.as_deref().unwrap_or_default();
    let init = list(inputs, init_list, true);
    let initialized = init_done(&spec, inputs.runtime, &init);
    let main = list(inputs, &spec.containers, initialized);
    let extra: Vec<Container> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(as_container)
        .collect();
    let extra = list(inputs, &extra, true);
    let phase = final_phase(&stored)
        .or_else(|| inputs.ending.map(|_| "Failed"))
        .unwrap_or_else(|| phase(&spec, &init, &main, initialized));
    let (ips, host_ips) = addresses(inputs, &spec, &stored);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        start_time: stored.start_time.clone().or(Some(Time(inputs.now))),
        qos_class: stored
            .qos_class
            .clone()
            .or_else(|| Some(qos_class(&spec).to_owned())),
        host_ip: Some(inputs.host_ip.to_owned()).filter(|ip| !ip.is_empty()),
        host_ips,
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        container_statuses: some(main),
        init_container_statuses: some(init),
        ephemeral_container_statuses: some(extra),
        observed_generation: pod.metadata.generation,
        reason: stored.reason.clone(),
        message: stored.message.clone(),
        nominated_node_name: stored.nominated_node_name.clone(),
        ..PodStatus::default()
    };
    if let Some((reason, message)) = inputs.ending {
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
    let sandbox = inputs.runtime.ready_sandbox().is_some();
    status.conditions = Some(conditions::conditions(
        pod,
        &status,
        initialized,
        sandbox,
        inputs.memory,
        inputs.now,
    ));
    status
}

fn final_phase(stored: &PodStatus) -> Option<&'static str> {
    match stored.phase.as_deref() {
        Some("Succeeded") => Some("Succeeded"),
        Some("Failed") => Some("Failed"),
        _ => None,
    }
}

fn addresses(
    inputs: &Inputs,
    spec: &PodSpec,
    stored: &PodStatus,
) -> (Vec<String>, Option<Vec<HostIP>>) {
    let host = inputs.host_ip.to_owned();
    let host_ips = (!host.is_empty()).then(|| vec![HostIP { ip: host.clone() }]);
    let mut ips: Vec<String> = Vec::new();
    if let Some(network) = inputs
        .runtime
        .ready_sandbox()
        .and_then(|s| s.network.as_ref())
    {
        ips.extend(Some(network.ip.clone()).filter(|ip| !ip.is_empty()));
        ips.extend(network.additional_ips.iter().map(|ip| ip.ip.clone()));
    }
    if spec.host_network == Some(true) && inputs.runtime.ready_sandbox().is_some() {
        ips = vec![host];
    }
    if ips.is_empty() {
        // The address of a pod that has ended stays known.
        ips = stored
            .pod_ips
            .iter()
            .flatten()
            .map(|p| p.ip.clone())
            .collect();
    }
    ips.retain(|ip| !ip.is_empty());
    (ips, host_ips)
}

/// Whether the init sequence is over: every step succeeded and every sidecar started, or a main
/// container exists already.
fn init_done(spec: &PodSpec, runtime: &Runtime, init: &[ContainerStatus]) -> bool {
    let begun = spec
        .containers
        .iter()
        .any(|c| runtime.newest(&c.name).is_some());
    let steps = spec.init_containers.iter().flatten().zip(init);
    begun
        || steps.into_iter().all(|(container, status)| {
            if is_sidecar(container) {
                status.started == Some(true)
            } else {
                let state = status.state.as_ref().and_then(|s| s.terminated.as_ref());
                state.is_some_and(|t| t.exit_code == 0)
            }
        })
}

fn list(inputs: &Inputs, containers: &[Container], allowed: bool) -> Vec<ContainerStatus> {
    containers
        .iter()
        .map(|c| container(inputs, c, allowed))
        .collect()
}

fn container(inputs: &Inputs, spec: &Container, allowed: bool) -> ContainerStatus {
    let stored = stored_status(inputs.pod, &spec.name);
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(newest) = inputs.runtime.newest(&spec.name) else {
        let waiting = || waiting(inputs, spec, allowed);
        remember(&mut status, stored, waiting);
        return status;
    };
    status.container_id = Some(container_id(inputs, newest));
    status.image_id.clone_from(&newest.image_ref);
    if let Some(known) = named_image(newest) {
        status.image = known;
    }
    status.restart_count = restarts(newest) as i32;
    let previous = inputs.runtime.previous(&spec.name);
    let previous = previous.map(|c| ended(inputs, c));
    status.last_state = previous.or_else(|| stored.and_then(|s| s.last_state.clone()));
    match newest.state() {
        ContainerState::ContainerRunning if !inputs.memory.is_hooked(spec) => {
            let part = inputs.memory.part(&spec.name);
            status.state = Some(running(newest));
            status.started = Some(part.started && part.id == newest.id);
            status.ready = part.started && part.ready && part.id == newest.id;
            given(&mut status, spec, newest, stored);
        }
        ContainerState::ContainerExited => exited(&mut status, inputs, spec, newest),
        _ => status.state = Some(waiting(inputs, spec, allowed)),
    }
    status
}

/// What was known of a container that the runtime has lost stays known; one that it never had waits.
fn remember(
    status: &mut ContainerStatus,
    stored: Option<&ContainerStatus>,
    waiting: impl FnOnce() -> State,
) {
    status.state = Some(match stored.and_then(|s| s.state.clone()) {
        Some(state) if state.terminated.is_some() => state,
        _ => waiting(),
    });
    if let Some(stored) = stored {
        status.restart_count = stored.restart_count;
        status.last_state.clone_from(&stored.last_state);
        status.container_id.clone_from(&stored.container_id);
        status.image_id.clone_from(&stored.image_id);
    }
}

/// The image's name as the runtime has it; an id is none.
fn named_image(newest: &cri::ContainerStatus) -> Option<String> {
    let known = newest.image.as_ref().map(|i| &i.image);
    known
        .filter(|name| !name.is_empty() && !name.starts_with("sha256:"))
        .cloned()
}

/// An end is the state, or the last one of a container that is to start again.
fn exited(
    status: &mut ContainerStatus,
    inputs: &Inputs,
    spec: &Container,
    newest: &cri::ContainerStatus,
) {
    let over = ended(inputs, newest);
    match crash_loop(inputs, spec, newest) {
        Some(state) => {
            status.state = Some(state);
            status.last_state = Some(over);
        }
        None => status.state = Some(over),
    }
    let pod = inputs.pod.spec.as_ref();
    let init = pod.and_then(|s| s.init_containers.as_ref());
    let step = init.into_iter().flatten().any(|c| c.name == spec.name);
    status.ready = step && !is_sidecar(spec) && newest.exit_code == 0;
}

/// The resources that a running container has: its spec's, once the runtime has applied them.
fn given(
    status: &mut ContainerStatus,
    spec: &Container,
    newest: &cri::ContainerStatus,
    stored: Option<&ContainerStatus>,
) {
    let asked = spec.resources.as_ref();
    let asked = asked.filter(|r| r.limits.is_some() || r.requests.is_some());
    let now = newest.resources.as_ref().and_then(|r| r.linux.as_ref());
    let (Some(asked), Some(now)) = (asked, now) else {
        return;
    };
    if security::resized(spec, now).is_none() {
        status.resources = Some(asked.clone());
        status.allocated_resources.clone_from(&asked.requests);
    } else if let Some(stored) = stored {
        status.resources.clone_from(&stored.resources);
        status
            .allocated_resources
            .clone_from(&stored.allocated_resources);
    }
}

fn container_id(inputs: &Inputs, status: &cri::ContainerStatus) -> String {
    format!("{}://{}", inputs.runtime_name, status.id)
}

fn running(status: &cri::ContainerStatus) -> State {
    State {
        running: Some(ContainerStateRunning {
            started_at: Some(Time(nanos(status.started_at))),
        }),
        ..State::default()
    }
}

fn ended(inputs: &Inputs, status: &cri::ContainerStatus) -> State {
    let reason = match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    State {
        terminated: Some(ContainerStateTerminated {
            exit_code: status.exit_code,
            reason: Some(reason.to_owned()),
            message: Some(status.message.clone()).filter(|m| !m.is_empty()),
            started_at: Some(Time(nanos(status.started_at))),
            finished_at: Some(Time(nanos(status.finished_at))),
            container_id: Some(container_id(inputs, status)),
            signal: None,
        }),
        ..State::default()
    }
}

/// CrashLoopBackOff, where a container waits for its next start.
fn crash_loop(inputs: &Inputs, spec: &Container, status: &cri::ContainerStatus) -> Option<State> {
    let part = inputs.memory.part(&spec.name);
    if let Some(failure) = &part.failure {
        // The next start was tried and failed.
        return Some(wait(&failure.reason, &failure.message));
    }
    let policy = inputs
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.restart_policy.as_deref());
    let again = match spec
        .restart_policy
        .as_deref()
        .or(policy)
        .unwrap_or("Always")
    {
        "Never" => false,
        "OnFailure" => status.exit_code != 0,
        _ => true,
    };
    part.crashes.until(nanos(status.finished_at), inputs.now)?;
    if !again || inputs.pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let pod = names::pod_key(inputs.pod).replace('/', "_");
    let (_, name) = pod.split_once('_').unwrap_or(("", &pod));
    let namespace = inputs.pod.metadata.namespace.as_deref().unwrap_or_default();
    let seconds = span(part.crashes.seconds());
    Some(wait(
        "CrashLoopBackOff",
        &format!(
            "back-off {seconds} restarting failed container={} pod={name}_{namespace}({})",
            spec.name,
            names::uid(inputs.pod)
        ),
    ))
}

/// Seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
pub fn span(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

fn waiting(inputs: &Inputs, spec: &Container, allowed: bool) -> State {
    let part = inputs.memory.part(&spec.name);
    if let Some(failure) = &part.failure {
        return wait(&failure.reason, &failure.message);
    }
    let init = inputs
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.init_containers.as_ref());
    let has_init = init.is_some_and(|list| !list.is_empty());
    let is_init = init.into_iter().flatten().any(|c| c.name == spec.name);
    if has_init && (is_init || !allowed) {
        wait("PodInitializing", "")
    } else {
        wait("ContainerCreating", "")
    }
}

fn wait(reason: &str, message: &str) -> State {
    State {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        }),
        ..State::default()
    }
}

fn phase(
    spec: &PodSpec,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    initialized: bool,
) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let over = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.clone());
    let steps = spec.init_containers.iter().flatten().zip(init);
    let failed = steps.into_iter().any(|(container, status)| {
        !is_sidecar(container)
            && policy == "Never"
            && over(status).is_some_and(|t| t.exit_code != 0)
    });
    if failed && !initialized {
        return "Failed";
    }
    if !initialized {
        return "Pending";
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        let state = status.state.clone().unwrap_or_default();
        let before = status
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref());
        if state.running.is_some() {
            running += 1;
        } else if let Some(terminated) = state.terminated {
            stopped += 1;
            succeeded += usize::from(terminated.exit_code == 0);
        } else if before.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    match (running, waiting, stopped) {
        (_, 1.., _) => "Pending",
        (1.., 0, _) => "Running",
        (0, 0, 1..) => match policy {
            "Always" => "Running",
            _ if stopped == succeeded => "Succeeded",
            "Never" => "Failed",
            _ => "Running",
        },
        _ => "Pending",
    }
}
