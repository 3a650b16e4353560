//! Which pods a job that goes on should have.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::{
    Counted, INDEX, INDEX_FAILURES, Member, NewPod, Phase, Plan, TRACKING, World, ended_at,
};
use crate::controllers::objects::{is_ready, owner_reference};
use crate::controllers::replicaset::pod_of;

/// Wait after the first failure, doubled by each further one (kube-controller-manager's default).
const FIRST_BACK_OFF: i64 = 10;
const LONGEST_BACK_OFF: i64 = 600;
/// No more pods than this are made in one look.
const BURST: usize = 500;

/// Makes what is missing, removes what is too much.
pub(super) fn adjust(world: &World<'_>, counted: &Counted, plan: &mut Plan) {
    let parallelism = world.spec.parallelism.unwrap_or(1);
    let active: Vec<&Member<'_>> = world
        .pods
        .iter()
        .filter(|p| p.phase == Phase::Active)
        .collect();
    let kept = duplicates(world, counted, &active, plan);
    let count = kept.len() as i32;
    let wanted = match world.spec.completions {
        Some(_) if world.indexed() => parallelism,
        Some(all) => parallelism.min(all - counted.succeeded),
        None if counted.succeeded > 0 => count.min(parallelism),
        None => parallelism,
    };
    if count > wanted {
        excess(&kept, (count - wanted) as usize, plan);
        return;
    }
    let mut held = count;
    if world.replaces_failed_only() {
        held += world.count(Phase::Terminating);
    }
    let missing = usize::try_from(wanted - held).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    if world.indexed() {
        indexes(world, counted, &kept, missing, plan);
    } else {
        let wait = back_off(world.pods.iter(), world.now);
        if wait > 0 {
            plan.again(wait);
        } else {
            plan.create = vec![
                NewPod {
                    index: None,
                    failures: 0
                };
                missing
            ];
        }
    }
}

/// Removes pods of an index that another has, or that is done; the others.
fn duplicates<'a, 'b>(
    world: &World<'_>,
    counted: &Counted,
    active: &[&'a Member<'b>],
    plan: &mut Plan,
) -> Vec<&'a Member<'b>> {
    if !world.indexed() {
        return active.to_vec();
    }
    let (mut seen, mut kept) = (BTreeSet::new(), Vec::new());
    for pod in active {
        let open = |i: i32| {
            i < world.spec.completions.unwrap_or(0)
                && !counted.completed.contains(&i)
                && !counted.failed_indexes.contains(&i)
        };
        match pod.index {
            Some(index) if open(index) && seen.insert(index) => kept.push(*pod),
            _ => plan.delete.push(pod.name.to_owned()),
        }
    }
    kept
}

/// Those that have done least go first: not ready, then the youngest.
fn excess(kept: &[&Member<'_>], count: usize, plan: &mut Plan) {
    let mut order = kept.to_vec();
    order.sort_by_key(|m| {
        let made = m.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let index = m.index.unwrap_or(0);
        (
            is_ready(m.pod),
            std::cmp::Reverse(made),
            std::cmp::Reverse(index),
            m.name.to_owned(),
        )
    });
    plan.delete
        .extend(order.iter().take(count).map(|m| m.name.to_owned()));
}

fn indexes(
    world: &World<'_>,
    counted: &Counted,
    active: &[&Member<'_>],
    missing: usize,
    plan: &mut Plan,
) {
    let busy: BTreeSet<i32> = active.iter().filter_map(|m| m.index).collect();
    let going: BTreeSet<i32> = world
        .pods
        .iter()
        .filter(|p| world.replaces_failed_only() && p.phase == Phase::Terminating)
        .filter_map(|p| p.index)
        .collect();
    let per_index = world.spec.backoff_limit_per_index.is_some();
    let wait = if per_index {
        0
    } else {
        back_off(world.pods.iter(), world.now)
    };
    if wait > 0 {
        return plan.again(wait);
    }
    for index in 0..world.spec.completions.unwrap_or(0) {
        if plan.create.len() >= missing {
            return;
        }
        let over = counted.completed.contains(&index) || counted.failed_indexes.contains(&index);
        if over || busy.contains(&index) || going.contains(&index) {
            continue;
        }
        let of_index = || world.pods.iter().filter(move |p| p.index == Some(index));
        let wait = if per_index {
            back_off(of_index(), world.now)
        } else {
            0
        };
        if wait > 0 {
            plan.again(wait);
            continue;
        }
        let failures = of_index()
            .filter(|p| p.phase == Phase::Failed)
            .map(|p| failures(p) + 1)
            .max()
            .unwrap_or(0);
        plan.create.push(NewPod {
            index: Some(index),
            failures,
        });
    }
}

fn failures(member: &Member<'_>) -> i32 {
    let annotations = member.pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|a| a.get(INDEX_FAILURES));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// Whether a failed pod may be let go. With a limit for each index the last one stays until its
/// successor has its count, or the index has failed, which is noted here.
pub(super) fn may_let_go(world: &World<'_>, pod: &Member<'_>, failed: &mut BTreeSet<i32>) -> bool {
    let (Some(limit), Some(index)) = (world.spec.backoff_limit_per_index, pod.index) else {
        return true;
    };
    let own = failures(pod);
    let old = world.job.status.clone().unwrap_or_default();
    if super::verdict::is_ending(&old) {
        return true;
    }
    if own >= limit {
        failed.insert(index);
    }
    failed.contains(&index)
        || world
            .pods
            .iter()
            .any(|p| p.index == Some(index) && failures(p) > own)
}

/// Seconds to wait: by the failures since the last success, from the last one on.
fn back_off<'a, 'b: 'a>(pods: impl Iterator<Item = &'a Member<'b>>, now: Timestamp) -> i64 {
    let mut ends: Vec<(Timestamp, bool)> = pods
        .filter(|p| p.ended())
        .filter_map(|p| Some((ended_at(p.pod)?, p.phase == Phase::Succeeded)))
        .collect();
    ends.sort_unstable();
    let failures = ends.iter().rev().take_while(|(_, good)| !good).count();
    let Some((last, _)) = ends.last().filter(|_| failures > 0) else {
        return 0;
    };
    let doubled = FIRST_BACK_OFF << (failures - 1).min(10);
    last.as_second() + doubled.min(LONGEST_BACK_OFF) - now.as_second()
}

/// The pod to make.
pub fn new_pod(job: &Job, wanted: &NewPod) -> Pod {
    let owner = owner_reference("batch/v1", "Job", &job.metadata);
    let template = job
        .spec
        .as_ref()
        .map(|s| s.template.clone())
        .unwrap_or_default();
    let mut pod = pod_of(template, &job.metadata, owner);
    pod.metadata
        .finalizers
        .get_or_insert_default()
        .push(TRACKING.to_owned());
    let Some(index) = wanted.index else {
        return pod;
    };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if job
        .spec
        .as_ref()
        .is_some_and(|s| s.backoff_limit_per_index.is_some())
    {
        annotations.insert(INDEX_FAILURES.to_owned(), wanted.failures.to_string());
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname
            .get_or_insert_with(|| format!("{name}-{index}"));
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == "JOB_COMPLETION_INDEX") {
                env.push(index_variable());
            }
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field = ObjectFieldSelector {
        api_version: None,
        field_path: format!("metadata.labels['{INDEX}']"),
    };
    EnvVar {
        name: "JOB_COMPLETION_INDEX".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
