//! Job: pods until enough of them have succeeded.
//!
//! A pod that ended is counted once, whatever happens to it afterwards, by the steps that
//! kube-controller-manager takes: its finalizer holds it; its uid is written to
//! `status.uncountedTerminatedPods`; the finalizer is removed; the count goes up and the uid leaves
//! the list in one write.
//!
//! ```text
//! running ─▶ ended, held ─▶ noted in the status ─▶ let go ─▶ counted
//! ```
//!
//! Which pods there should be is in [`wanted`], why a job ends in [`verdict`], failure rules in
//! [`policy`].

pub mod indexes;
mod policy;
#[cfg(test)]
mod tests;
mod verdict;
mod wanted;

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::objects::{controller_of, is_controlled_by, is_ready, selects};
pub use wanted::new_pod;

/// Holds a pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod of an indexed job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often pods of the same index failed before this one.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// A pod to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPod {
    /// Its completion index.
    pub index: Option<i32>,
    /// Failures of the index so far.
    pub failures: i32,
}

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// The status, where it differs from the stored one. Written before anything else: it notes
    /// the pods that are let go next.
    pub status: Option<JobStatus>,
    /// Matching pods without a manager.
    pub adopt: Vec<String>,
    /// Pods to be held no longer.
    pub let_go: Vec<String>,
    /// Pods to remove; they are not counted.
    pub delete: Vec<String>,
    /// Pods to make.
    pub create: Vec<NewPod>,
    /// What to tell people: whether it is good, reason, message.
    pub events: Vec<(bool, &'static str, String)>,
    /// Whether the job itself is to be removed, its time after the end being up.
    pub remove: bool,
    /// Seconds after which to look again.
    pub again_after: Option<i64>,
}

impl Plan {
    fn again(&mut self, seconds: i64) {
        let seconds = seconds.max(1);
        self.again_after = Some(self.again_after.map_or(seconds, |s| s.min(seconds)));
    }

    /// Whether there is nothing to write.
    pub fn is_quiet(&self) -> bool {
        self.status.is_none()
            && self.adopt.is_empty()
            && self.let_go.is_empty()
            && self.delete.is_empty()
            && self.create.is_empty()
            && !self.remove
    }
}

/// The state of a pod as a job sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Active,
    /// On its way out, and not yet ended.
    Terminating,
    Succeeded,
    Failed,
}

/// A pod of the job.
struct Member<'a> {
    pod: &'a Pod,
    name: &'a str,
    uid: &'a str,
    phase: Phase,
    held: bool,
    index: Option<i32>,
}

impl<'a> Member<'a> {
    fn new(pod: &'a Pod) -> Self {
        let meta = &pod.metadata;
        let finalizers = meta.finalizers.iter().flatten();
        let index = meta.annotations.as_ref().and_then(|a| a.get(INDEX));
        Self {
            pod,
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            phase: phase(pod),
            held: finalizers.into_iter().any(|f| f == TRACKING),
            index: index.and_then(|i| i.parse().ok()),
        }
    }

    fn ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

fn phase(pod: &Pod) -> Phase {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let going = pod.metadata.deletion_timestamp.is_some();
    // With no grace left the node agent has confirmed that nothing runs.
    let stopped = going && pod.metadata.deletion_grace_period_seconds == Some(0);
    match phase {
        Some("Succeeded") => Phase::Succeeded,
        Some("Failed") => Phase::Failed,
        _ if stopped => Phase::Failed,
        _ if going => Phase::Terminating,
        _ => Phase::Active,
    }
}

/// Everything that the parts of the plan look at.
struct World<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: Vec<Member<'a>>,
    now: Timestamp,
}

impl World<'_> {
    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// Whether a pod that is on its way out keeps its place until it has ended.
    fn replaces_failed_only(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    fn count(&self, phase: Phase) -> i32 {
        self.pods.iter().filter(|p| p.phase == phase).count() as i32
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }
}

/// The pods of the job among those of its namespace; strangers that match are noted for adoption.
fn members<'a>(job: &Job, spec: &JobSpec, pods: &'a [Pod], plan: &mut Plan) -> Vec<Member<'a>> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let dying = job.metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in pods {
        let selector = spec.selector.as_ref();
        let matches = || selector.is_some_and(|s| selects(s, pod.metadata.labels.as_ref()));
        if is_controlled_by(&pod.metadata, uid) {
            mine.push(Member::new(pod));
        } else if !dying
            && controller_of(&pod.metadata).is_none()
            && pod.metadata.deletion_timestamp.is_none()
            && matches()
        {
            plan.adopt
                .push(pod.metadata.name.clone().unwrap_or_default());
        }
    }
    mine.sort_by_key(|m| m.name);
    mine
}

/// Compares what `job` wants with the pods of its namespace.
pub fn plan(job: &Job, pods: &[Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &job.spec else { return plan };
    let pods = members(job, spec, pods, &mut plan);
    let world = World {
        job,
        spec,
        pods,
        now,
    };
    let old = job.status.clone().unwrap_or_default();
    if verdict::finished(&old).is_some() {
        after_the_end(&world, &old, &mut plan);
        return plan;
    }
    let mut status = old.clone();
    let counted = count(&world, &mut status, &mut plan);
    if job.metadata.deletion_timestamp.is_none() {
        let target = verdict::judge(&world, &counted, &mut status, &mut plan);
        if target || world.suspended() {
            stop_all(&world, &mut plan);
        } else {
            wanted::adjust(&world, &counted, &mut plan);
        }
        verdict::conclude(&world, &mut status, &mut plan);
    }
    numbers(&world, &mut status);
    if status != old {
        plan.status = Some(status);
    }
    plan
}

/// What has ended so far, counted or about to be.
#[derive(Debug, Default)]
struct Counted {
    succeeded: i32,
    failed: i32,
    completed: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    /// Why a rule says that the job has failed.
    fails_job: Option<String>,
}

/// Moves ended pods along the steps of the module's head.
fn count(world: &World<'_>, status: &mut JobStatus, plan: &mut Plan) -> Counted {
    let mut tally = Tally::settled(world, status);
    for pod in world.pods.iter().filter(|p| p.held && p.ended()) {
        if tally.knows(pod) || tally.note(world, pod) {
            plan.let_go.push(pod.name.to_owned());
        }
    }
    tally.into_status(world, status)
}

/// Uids of ended pods that are held until the status has them, and what has ended by index.
struct Tally {
    succeeded: Vec<String>,
    failed: Vec<String>,
    completed: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    fails_job: Option<String>,
}

impl Tally {
    /// As the status has it; pods that were let go by now are counted in it.
    fn settled(world: &World<'_>, status: &mut JobStatus) -> Self {
        let noted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let mut succeeded = noted.succeeded.unwrap_or_default();
        let mut failed = noted.failed.unwrap_or_default();
        let held = |uid: &String| world.pods.iter().any(|p| p.uid == uid && p.held);
        let settle = |list: &mut Vec<String>, total: &mut Option<i32>| {
            let before = list.len();
            list.retain(held);
            let done = (before - list.len()) as i32;
            if done > 0 {
                *total = Some(total.unwrap_or(0) + done);
            }
        };
        settle(&mut succeeded, &mut status.succeeded);
        settle(&mut failed, &mut status.failed);
        Self {
            succeeded,
            failed,
            completed: parse_set(status.completed_indexes.as_deref()),
            failed_indexes: parse_set(status.failed_indexes.as_deref()),
            fails_job: None,
        }
    }

    fn knows(&self, pod: &Member<'_>) -> bool {
        let mut all = self.succeeded.iter().chain(&self.failed);
        all.any(|uid| uid == pod.uid)
    }

    /// Notes an end; whether the pod may be let go.
    fn note(&mut self, world: &World<'_>, pod: &Member<'_>) -> bool {
        if pod.phase == Phase::Succeeded {
            note_success(world, pod, &mut self.completed, &mut self.succeeded);
            return true;
        }
        match policy::of(world, pod) {
            policy::Action::Ignore => return true,
            policy::Action::FailJob(why) => {
                self.fails_job.get_or_insert(why);
            }
            policy::Action::FailIndex => self.failed_indexes.extend(pod.index),
            policy::Action::Count => {}
        }
        let let_go = wanted::may_let_go(world, pod, &mut self.failed_indexes);
        if let_go {
            self.failed.push(pod.uid.to_owned());
        }
        let_go
    }

    fn into_status(mut self, world: &World<'_>, status: &mut JobStatus) -> Counted {
        let mut waiting = self.succeeded.len() as i32;
        if world.indexed() {
            let all = world.spec.completions.unwrap_or(0);
            self.completed.retain(|i| *i < all);
            let completed = indexes::format(&self.completed);
            status.completed_indexes = Some(completed).filter(|t| !t.is_empty());
            status.succeeded = Some(self.completed.len() as i32).filter(|n| *n > 0);
            if world.spec.backoff_limit_per_index.is_some() {
                status.failed_indexes = Some(indexes::format(&self.failed_indexes));
            }
            // They are among the indexes.
            waiting = 0;
        }
        let counted = Counted {
            succeeded: status.succeeded.unwrap_or(0) + waiting,
            failed: status.failed.unwrap_or(0) + self.failed.len() as i32,
            completed: self.completed,
            failed_indexes: self.failed_indexes,
            fails_job: self.fails_job,
        };
        let list = |l: Vec<String>| Some(l).filter(|l| !l.is_empty());
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(self.succeeded),
            failed: list(self.failed),
        });
        counted
    }
}

fn parse_set(text: Option<&str>) -> BTreeSet<i32> {
    text.and_then(indexes::parse).unwrap_or_default()
}

fn note_success(
    world: &World<'_>,
    pod: &Member<'_>,
    completed: &mut BTreeSet<i32>,
    uids: &mut Vec<String>,
) {
    if world.indexed() {
        // The set of indexes is the count.
        completed.extend(pod.index);
    } else {
        uids.push(pod.uid.to_owned());
    }
}

/// No pod goes on running; those that are stopped are not counted.
fn stop_all(world: &World<'_>, plan: &mut Plan) {
    for pod in world.pods.iter().filter(|p| p.phase == Phase::Active) {
        plan.delete.push(pod.name.to_owned());
    }
}

fn numbers(world: &World<'_>, status: &mut JobStatus) {
    status.active = Some(world.count(Phase::Active)).filter(|n| *n > 0);
    status.terminating = Some(world.count(Phase::Terminating));
    let ready = |p: &&Member<'_>| p.phase == Phase::Active && is_ready(p.pod);
    status.ready = Some(world.pods.iter().filter(ready).count() as i32);
}

/// A finished job holds no pods, and goes when its time is up.
fn after_the_end(world: &World<'_>, status: &JobStatus, plan: &mut Plan) {
    let held = world.pods.iter().filter(|p| p.held);
    plan.let_go.extend(held.map(|p| p.name.to_owned()));
    stop_all(world, plan);
    let Some(ttl) = world.spec.ttl_seconds_after_finished else {
        return;
    };
    let end = verdict::finished(status).unwrap_or(world.now);
    let left = end.as_second() + i64::from(ttl) - world.now.as_second();
    if left > 0 {
        plan.again(left);
    } else if world.job.metadata.deletion_timestamp.is_none() {
        plan.remove = true;
    }
}

/// When a pod's last container ended; when it was made, where nothing is known.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let containers = status.and_then(|s| s.container_statuses.as_ref());
    let ends = containers.into_iter().flatten().filter_map(|c| {
        let ended = c.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|t| t.0)
    });
    let made = || pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    ends.max().or_else(made)
}

fn time(now: Timestamp) -> Time {
    // Kubernetes' times have whole seconds.
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
