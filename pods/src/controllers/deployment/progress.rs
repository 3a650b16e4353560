//! The Deployment's status: counts, Available, Progressing and its deadline.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::sets::{Family, available, name};
use super::{Plan, Step, rolling};

/// The deadline counts from here.
const NEW_SET: &str = "NewReplicaSetCreated";

/// The counts of the status, with the conditions as they are stored.
pub fn count(deployment: &Deployment, family: &Family) -> DeploymentStatus {
    let stored = deployment.status.clone().unwrap_or_default();
    let sum = |of: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        family
            .all
            .iter()
            .filter_map(|s| s.status.as_ref())
            .map(of)
            .sum()
    };
    let replicas = sum(&|s| s.replicas);
    let ready = sum(&|s| s.ready_replicas.unwrap_or(0));
    let serving = family.all.iter().map(|set| available(set)).sum::<i32>();
    let updated = family
        .new
        .and_then(|s| s.status.as_ref())
        .map_or(0, |s| s.replicas);
    let total: i32 = family
        .all
        .iter()
        .map(|set| super::sets::replicas(set))
        .sum();
    let nonzero = |count: i32| (count > 0).then_some(count);
    DeploymentStatus {
        replicas: nonzero(replicas),
        ready_replicas: nonzero(ready),
        available_replicas: nonzero(serving),
        updated_replicas: nonzero(updated),
        unavailable_replicas: nonzero(total - serving),
        observed_generation: deployment.metadata.generation,
        conditions: stored.conditions,
        collision_count: stored.collision_count,
        ..DeploymentStatus::default()
    }
}

/// Whether every replica is of the new template and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = rolling::desired(deployment);
    [
        status.updated_replicas,
        status.replicas,
        status.available_replicas,
    ]
    .iter()
    .all(|count| count.unwrap_or(0) == wanted)
}

/// Adds the status to the plan where it differs from the stored one.
pub fn report(deployment: &Deployment, family: &Family, now: Timestamp, plan: &mut Plan) {
    if plan.steps.iter().any(|s| matches!(s, Step::Collision(_))) {
        return;
    }
    let mut status = count(deployment, family);
    available_condition(deployment, &mut status, now);
    progressing_condition(deployment, family, &mut status, now, plan);
    if deployment.status.as_ref() != Some(&status) {
        plan.steps.push(Step::Status(status));
    }
}

fn available_condition(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let (_, unavailable) = rolling::fence(deployment);
    let enough =
        status.available_replicas.unwrap_or(0) >= rolling::desired(deployment) - unavailable;
    let condition = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    let (state, reason, message) = condition;
    set(status, "Available", state, reason, message, now);
}

fn progressing_condition(
    deployment: &Deployment,
    family: &Family,
    status: &mut DeploymentStatus,
    now: Timestamp,
    plan: &mut Plan,
) {
    let spec = deployment.spec.as_ref();
    let Some(deadline) = spec
        .and_then(|s| s.progress_deadline_seconds)
        .filter(|d| *d < i32::MAX)
    else {
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|c| c.type_ != "Progressing");
        }
        return;
    };
    if let Some((state, reason, message)) = settled(deployment, family, status, plan) {
        set(status, "Progressing", state, reason, &message, now);
        if reason == NEW_SET {
            plan.again_after = Some(i64::from(deadline) + 1);
        }
        return;
    }
    let subject = subject(deployment, family);
    if progressed(deployment, status) {
        let message = format!("{subject} is progressing.");
        touch(status, &message, now);
    }
    plan.again_after = overdue(status, deadline, &subject, now);
}

/// State, reason and message where neither time nor what moved since decides.
fn settled(
    deployment: &Deployment,
    family: &Family,
    status: &DeploymentStatus,
    plan: &Plan,
) -> Option<(&'static str, &'static str, String)> {
    let created = plan.steps.iter().find_map(|step| match step {
        Step::Create(set) => Some(name(set)),
        _ => None,
    });
    if let Some(made) = created {
        let message = format!("Created new replica set \"{made}\"");
        return Some(("True", NEW_SET, message));
    }
    if is_complete(deployment, status) && family.new.is_some() {
        let subject = subject(deployment, family);
        let message = format!("{subject} has successfully progressed.");
        return Some(("True", "NewReplicaSetAvailable", message));
    }
    let paused = deployment.spec.as_ref().and_then(|s| s.paused) == Some(true);
    let message = || "Deployment is paused".to_owned();
    paused.then(|| ("Unknown", "DeploymentPaused", message()))
}

/// Whose progress it is.
fn subject(deployment: &Deployment, family: &Family) -> String {
    match family.new {
        Some(new) => format!("ReplicaSet \"{}\"", name(new)),
        None => format!(
            "Deployment \"{}\"",
            deployment.metadata.name.as_deref().unwrap_or_default()
        ),
    }
}

/// Whether anything moved towards the goal since the stored status.
fn progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let stored = deployment.status.clone().unwrap_or_default();
    let outdated = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    let condition = find(status, "Progressing");
    // A rollout that begins anew where the last one ended or failed is progress too.
    let ended = condition.is_none_or(|c| {
        matches!(
            c.reason.as_deref(),
            Some("NewReplicaSetAvailable" | "DeploymentPaused")
        )
    });
    ended
        || status.updated_replicas > stored.updated_replicas
        || outdated(status) < outdated(&stored)
        || status.ready_replicas > stored.ready_replicas
        || status.available_replicas > stored.available_replicas
}

/// Marks the rollout as stuck once the deadline has passed; else says in how many seconds it does.
fn overdue(
    status: &mut DeploymentStatus,
    deadline: i32,
    subject: &str,
    now: Timestamp,
) -> Option<i64> {
    let condition = find(status, "Progressing")?;
    if condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    let left = since.as_second() + i64::from(deadline) - now.as_second();
    if left >= 0 {
        return Some(left + 1);
    }
    let message = format!("{subject} has timed out progressing.");
    set(
        status,
        "Progressing",
        "False",
        "ProgressDeadlineExceeded",
        &message,
        now,
    );
    None
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    let conditions = status.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

/// Progress was made: the update time moves on, which the deadline counts from.
fn touch(status: &mut DeploymentStatus, message: &str, now: Timestamp) {
    set(
        status,
        "Progressing",
        "True",
        "ReplicaSetUpdated",
        message,
        now,
    );
    let conditions = status.conditions.iter_mut().flatten();
    for condition in conditions.filter(|c| c.type_ == "Progressing") {
        condition.last_update_time = Some(Time(now));
    }
}

/// Sets a condition; nothing is touched where state and reason are what they were.
fn set(
    status: &mut DeploymentStatus,
    kind: &str,
    state: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let stored = conditions.iter().position(|c| c.type_ == kind);
    let mut condition = DeploymentCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let Some(index) = stored else {
        conditions.push(condition);
        return;
    };
    let old = &conditions[index];
    if old.status == state
        && old.reason.as_deref() == Some(reason)
        && old.message == condition.message
    {
        return;
    }
    if old.status == state {
        condition
            .last_transition_time
            .clone_from(&old.last_transition_time);
    }
    conditions[index] = condition;
}
