//! Why and when a job ends. First a target is set (`SuccessCriteriaMet` or `FailureTarget`), which
//! stops all pods; once none is left, the end itself is (`Complete` or `Failed`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};

use super::{Counted, Phase, Plan, World, indexes, time};

fn holds<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let all = status.conditions.iter().flatten();
    all.into_iter()
        .find(|c| c.type_ == kind && c.status == "True")
}

/// Since when the job has been over.
pub(super) fn finished(status: &JobStatus) -> Option<Timestamp> {
    let end = holds(status, "Complete").or_else(|| holds(status, "Failed"))?;
    Some(
        end.last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0),
    )
}

/// Whether it has a target: no pod is made any more.
pub(super) fn is_ending(status: &JobStatus) -> bool {
    holds(status, "SuccessCriteriaMet").is_some() || holds(status, "FailureTarget").is_some()
}

fn set(status: &mut JobStatus, kind: &str, on: bool, why: (&str, String), now: Timestamp) -> bool {
    let value = if on { "True" } else { "False" };
    let all = status.conditions.get_or_insert_default();
    if all.iter().any(|c| c.type_ == kind && c.status == value) {
        return false;
    }
    all.retain(|c| c.type_ != kind);
    all.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(why.0.to_owned()),
        message: Some(why.1),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    });
    true
}

/// Sets a target where one is reached, and the start. Whether there is a target.
pub(super) fn judge(
    world: &World<'_>,
    counted: &Counted,
    status: &mut JobStatus,
    plan: &mut Plan,
) -> bool {
    if is_ending(status) {
        return true;
    }
    if let Some(message) = success(world, counted) {
        let reason = if message == POLICY {
            "SuccessPolicy"
        } else {
            "CompletionsReached"
        };
        return set(
            status,
            "SuccessCriteriaMet",
            true,
            (reason, message.to_owned()),
            world.now,
        );
    }
    if let Some((reason, message)) = failure(world, counted, status, plan) {
        return set(status, "FailureTarget", true, (reason, message), world.now);
    }
    suspension(world, status, plan);
    false
}

fn suspension(world: &World<'_>, status: &mut JobStatus, plan: &mut Plan) {
    if world.suspended() {
        if set(
            status,
            "Suspended",
            true,
            ("JobSuspended", "Job suspended".to_owned()),
            world.now,
        ) {
            plan.events
                .push((true, "Suspended", "Job suspended".to_owned()));
        }
        status.start_time = None;
        return;
    }
    let resumed = holds(status, "Suspended").is_some()
        && set(
            status,
            "Suspended",
            false,
            ("JobResumed", "Job resumed".to_owned()),
            world.now,
        );
    if resumed {
        plan.events
            .push((true, "Resumed", "Job resumed".to_owned()));
    }
    if status.start_time.is_none() || resumed {
        status.start_time = Some(time(world.now));
    }
}

const REACHED: &str = "Reached expected number of succeeded pods";
const POLICY: &str = "Matched rules at index";

/// Whether enough has succeeded.
fn success(world: &World<'_>, counted: &Counted) -> Option<&'static str> {
    if by_policy(world, counted) {
        return Some(POLICY);
    }
    let done = match world.spec.completions {
        Some(all) => counted.succeeded >= all,
        // A queue is done when one has said so and the others have ended.
        None => counted.succeeded > 0 && world.count(Phase::Active) == 0,
    };
    done.then_some(REACHED)
}

fn by_policy(world: &World<'_>, counted: &Counted) -> bool {
    let rules = world.spec.success_policy.iter().flat_map(|p| &p.rules);
    rules.into_iter().any(|rule| {
        let listed: Option<BTreeSet<i32>> =
            rule.succeeded_indexes.as_deref().and_then(indexes::parse);
        let met = match &listed {
            Some(listed) => listed.intersection(&counted.completed).count(),
            None => counted.completed.len(),
        };
        match (rule.succeeded_count, listed) {
            (Some(want), _) => met >= usize::try_from(want).unwrap_or(0),
            (None, Some(listed)) => met == listed.len(),
            (None, None) => false,
        }
    })
}

/// Whether too much has failed, and why.
fn failure(
    world: &World<'_>,
    counted: &Counted,
    status: &JobStatus,
    plan: &mut Plan,
) -> Option<(&'static str, String)> {
    if let Some(why) = &counted.fails_job {
        return Some(("PodFailurePolicy", why.clone()));
    }
    let limit = world.spec.backoff_limit.unwrap_or(6);
    if counted.failed > limit || restarted(world) {
        return Some((
            "BackoffLimitExceeded",
            "Job has reached the specified backoff limit".into(),
        ));
    }
    if let (Some(start), Some(deadline)) = (&status.start_time, world.spec.active_deadline_seconds)
        && !world.suspended()
    {
        let left = start.0.as_second() + deadline - world.now.as_second();
        if left <= 0 {
            return Some((
                "DeadlineExceeded",
                "Job was active longer than specified deadline".into(),
            ));
        }
        plan.again(left);
    }
    by_index(world, counted)
}

/// Whether containers that are restarted in place have used up the limit.
fn restarted(world: &World<'_>) -> bool {
    let template = world.spec.template.spec.as_ref();
    if template.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let limit = world.spec.backoff_limit.unwrap_or(6);
    let active = world.pods.iter().filter(|p| p.phase == Phase::Active);
    let restarts: i32 = active
        .filter_map(|p| p.pod.status.as_ref())
        .flat_map(|s| {
            s.container_statuses
                .iter()
                .chain(&s.init_container_statuses)
                .flatten()
        })
        .map(|c| c.restart_count)
        .sum();
    if limit == 0 {
        restarts > 0
    } else {
        restarts >= limit
    }
}

fn by_index(world: &World<'_>, counted: &Counted) -> Option<(&'static str, String)> {
    world.spec.backoff_limit_per_index?;
    let failed = counted.failed_indexes.len() as i32;
    if world
        .spec
        .max_failed_indexes
        .is_some_and(|most| failed > most)
    {
        let why = "Job has exceeded the specified maximal number of failed indexes";
        return Some(("MaxFailedIndexesExceeded", why.into()));
    }
    let ended = failed + counted.completed.len() as i32;
    (failed > 0 && world.spec.completions.is_some_and(|all| ended >= all))
        .then(|| ("FailedIndexes", "Job has failed indexes".into()))
}

/// Ends the job once its target is set, nothing runs, and all is counted.
pub(super) fn conclude(world: &World<'_>, status: &mut JobStatus, plan: &mut Plan) {
    let noted = status.uncounted_terminated_pods.as_ref();
    let open = noted.is_some_and(|n| n.succeeded.is_some() || n.failed.is_some());
    let running = world.count(Phase::Active) + world.count(Phase::Terminating) > 0;
    if open || running {
        return;
    }
    let why = |c: &JobCondition| {
        (
            c.reason.clone().unwrap_or_default(),
            c.message.clone().unwrap_or_default(),
        )
    };
    if let Some((reason, message)) = holds(status, "SuccessCriteriaMet").map(why) {
        set(status, "Complete", true, (&reason, message), world.now);
        status.completion_time = Some(time(world.now));
        plan.events
            .push((true, "Completed", "Job completed".to_owned()));
    } else if let Some((reason, message)) = holds(status, "FailureTarget").map(why) {
        set(
            status,
            "Failed",
            true,
            (&reason, message.clone()),
            world.now,
        );
        let known = [
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "PodFailurePolicy",
            "FailedIndexes",
            "MaxFailedIndexesExceeded",
        ];
        let reason = known.into_iter().find(|k| *k == reason).unwrap_or("Failed");
        plan.events.push((false, reason, message));
    }
}
