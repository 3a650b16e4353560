//! podFailurePolicy: what a failed pod means for its job.

use k8s_openapi::api::batch::v1::PodFailurePolicyRule;
use k8s_openapi::api::core::v1::Pod;

use super::{Member, World};

/// What becomes of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// It fails, for this reason.
    FailJob(String),
    /// The pod's index fails.
    FailIndex,
    /// The pod is not counted.
    Ignore,
    /// The pod is counted.
    Count,
}

/// The first rule that matches decides.
pub(super) fn of(world: &World<'_>, member: &Member<'_>) -> Action {
    let policy = world.spec.pod_failure_policy.as_ref();
    for (i, rule) in policy.iter().flat_map(|p| &p.rules).enumerate() {
        let Some(why) = matches(rule, member) else {
            continue;
        };
        return match rule.action.as_str() {
            "FailJob" => Action::FailJob(format!("{why} matching FailJob rule at index {i}")),
            "FailIndex" => Action::FailIndex,
            "Ignore" => Action::Ignore,
            _ => Action::Count,
        };
    }
    Action::Count
}

fn full_name(pod: &Pod) -> String {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", of(&pod.metadata.namespace), of(&pod.metadata.name))
}

/// What of the pod the rule matches.
fn matches(rule: &PodFailurePolicyRule, member: &Member<'_>) -> Option<String> {
    let status = member.pod.status.as_ref()?;
    if let Some(codes) = &rule.on_exit_codes {
        let all = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses);
        for container in all.flatten() {
            if codes
                .container_name
                .as_ref()
                .is_some_and(|n| *n != container.name)
            {
                continue;
            }
            let ended = container.state.as_ref().and_then(|s| s.terminated.as_ref());
            let Some(code) = ended.map(|e| e.exit_code).filter(|c| *c != 0) else {
                continue;
            };
            if codes.values.contains(&code) == (codes.operator == "In") {
                let pod = full_name(member.pod);
                return Some(format!(
                    "Container {} for pod {pod} failed with exit code {code}",
                    container.name
                ));
            }
        }
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let patterns = rule.on_pod_conditions.iter().flatten();
    let found = patterns.into_iter().find(|p| {
        let wanted = p.status.as_deref().unwrap_or("True");
        conditions
            .iter()
            .any(|c| c.type_ == p.type_ && c.status == wanted)
    })?;
    Some(format!(
        "Pod {} has condition {}",
        full_name(member.pod),
        found.type_
    ))
}
