//! The pod's conditions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::Memory;

/// Conditions that follow from the pod's state; those that others set stay.
const OURS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// All conditions, in the kubelet's order; the transition time of one that did not change stays.
pub fn conditions(
    pod: &Pod,
    status: &PodStatus,
    initialized: bool,
    sandbox: bool,
    memory: &Memory,
    now: Timestamp,
) -> Vec<PodCondition> {
    let stored = pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let containers = containers_ready(pod, status, over);
    let mut verdicts = vec![
        plain("PodReadyToStartContainers", sandbox),
        initialized_verdict(pod, status, initialized, over),
        ready(pod, &containers),
        containers,
        plain("PodScheduled", true),
    ];
    verdicts.extend(resize(memory));
    let mut all: Vec<PodCondition> = verdicts
        .into_iter()
        .map(|verdict| condition(verdict, pod, &stored, now))
        .collect();
    let others = stored
        .into_iter()
        .filter(|c| !OURS.contains(&c.type_.as_str()));
    all.extend(others);
    all
}

fn plain(kind: &'static str, holds: bool) -> Verdict {
    Verdict {
        kind,
        holds,
        reason: None,
        message: None,
    }
}

/// A resize that waits for the node, or that the runtime refused. One that goes well is over before
/// anybody could look.
fn resize(memory: &Memory) -> Option<Verdict> {
    if let Some(pending) = &memory.resize {
        return Some(Verdict {
            reason: Some(pending.reason),
            message: Some(pending.message.clone()),
            ..plain("PodResizePending", true)
        });
    }
    let tasks = memory.parts.iter();
    let mut tasks = tasks.filter(|(name, _)| name.starts_with("resize/"));
    let failure = tasks.find_map(|(_, part)| part.failure.as_ref())?;
    Some(Verdict {
        reason: Some("Error"),
        message: Some(failure.message.clone()),
        ..plain("PodResizeInProgress", true)
    })
}

fn condition(verdict: Verdict, pod: &Pod, stored: &[PodCondition], now: Timestamp) -> PodCondition {
    let state = if verdict.holds { "True" } else { "False" };
    let before = stored
        .iter()
        .find(|c| c.type_ == verdict.kind && c.status == state);
    let since = before.and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: state.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: since.or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

fn initialized_verdict(pod: &Pod, status: &PodStatus, done: bool, over: bool) -> Verdict {
    let has_init = pod
        .spec
        .as_ref()
        .and_then(|s| s.init_containers.as_ref())
        .is_some_and(|list| !list.is_empty());
    let mut verdict = plain("Initialized", done || !has_init);
    if !verdict.holds {
        let list = status
            .init_container_statuses
            .as_deref()
            .unwrap_or_default();
        let names = names(list.iter().filter(|s| !s.ready));
        verdict.reason = Some("ContainersNotInitialized");
        verdict.message = Some(format!("containers with incomplete status: [{names}]"));
    } else if over && status.phase.as_deref() == Some("Succeeded") {
        verdict.reason = Some("PodCompleted");
    }
    verdict
}

fn containers_ready(pod: &Pod, status: &PodStatus, over: bool) -> Verdict {
    let mut verdict = plain("ContainersReady", false);
    if over {
        let failed = status.phase.as_deref() == Some("Failed");
        verdict.reason = Some(if failed { "PodFailed" } else { "PodCompleted" });
        return verdict;
    }
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref());
    let sidecar = |name: &str| {
        let mut list = init.into_iter().flatten();
        list.any(|c| c.name == name && crate::resources::is_sidecar(c))
    };
    let sidecars = status.init_container_statuses.iter().flatten();
    let sidecars = sidecars.filter(|s| sidecar(&s.name));
    let main = status.container_statuses.iter().flatten();
    let unready: Vec<&ContainerStatus> = sidecars.chain(main).filter(|s| !s.ready).collect();
    if unready.is_empty() {
        verdict.holds = true;
        return verdict;
    }
    verdict.reason = Some("ContainersNotReady");
    let names = names(unready.into_iter());
    verdict.message = Some(format!("containers with unready status: [{names}]"));
    verdict
}

fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    let mut verdict = Verdict {
        kind: "Ready",
        holds: containers.holds,
        reason: containers.reason,
        message: containers.message.clone(),
    };
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let closed = gates.into_iter().flatten().find(|gate| {
        let kind = &gate.condition_type;
        let found = crate::controllers::objects::pod_condition(pod, kind);
        found.is_none_or(|c| c.status != "True")
    });
    if let (true, Some(gate)) = (verdict.holds, closed) {
        verdict.holds = false;
        verdict.reason = Some("ReadinessGatesNotReady");
        let kind = &gate.condition_type;
        verdict.message = Some(format!(
            "the status of pod readiness gate \"{kind}\" is not \"True\""
        ));
    }
    verdict
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    let names: Vec<&str> = statuses.map(|s| s.name.as_str()).collect();
    names.join(" ")
}
