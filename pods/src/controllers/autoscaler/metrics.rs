//! How many replicas one metric asks for.
//!
//! What is not known counts for the side of caution: a pod without a measurement uses nothing where
//! more would be started, and all that it asked for where some would be stopped. A pod that is not
//! ready yet uses nothing.

// What is counted here is far below 2^52.
#![allow(clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::api::node::Used;
use crate::controllers::objects::pod_condition;
use crate::quantity;

/// While a pod is so young, its CPU counts only if it was ready when the measurement began.
const YOUNG: SignedDuration = SignedDuration::from_mins(5);
/// A pod that was never ready for so long after its start is one that is starting.
const STARTING: SignedDuration = SignedDuration::from_secs(30);

/// What one pod uses.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// By container.
    pub containers: BTreeMap<String, Used>,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// When.
    pub at: Timestamp,
    /// Over how long.
    pub window: Duration,
    /// By the pod's uid.
    pub pods: BTreeMap<String, Sample>,
}

/// A resource that is looked at: of all containers of a pod, or of one.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `cpu` or `memory`.
    pub resource: &'a str,
    /// Only this container's.
    pub container: Option<&'a str>,
    /// What is aimed at.
    pub target: Target,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Percent of what is requested.
    Utilization(i64),
    /// Thousandths of the resource's unit, the mean of all pods.
    Average(i64),
}

/// By how much the ratio of use and target may differ from one, without anything being done.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Above.
    pub up: f64,
    /// Below.
    pub down: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// So many.
    pub replicas: i32,
    /// Percent of what is requested that is used now.
    pub utilization: Option<i64>,
    /// Thousandths that a pod uses now, the mean.
    pub average: i64,
}

#[derive(Default)]
struct Sorted<'a> {
    /// Measured and ready: uid, thousandths.
    measured: BTreeMap<&'a str, i64>,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
}

/// How many replicas there should be, of which there are `current` now.
pub fn propose(
    wanted: &Wanted<'_>,
    pods: &[Pod],
    metrics: &Metrics,
    current: i32,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let requests = match wanted.target {
        Target::Utilization(_) => requests(wanted, pods)?,
        Target::Average(_) => BTreeMap::new(),
    };
    let sorted = sort(wanted, pods, metrics);
    if sorted.measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let (ratio, utilization, average) = compare(wanted.target, &sorted.measured, &requests);
    let keep = |replicas| Proposal {
        replicas,
        utilization,
        average,
    };
    let starting = !sorted.unready.is_empty() && ratio > 1.0;
    if !starting && sorted.missing.is_empty() {
        let ready = sorted.measured.len() as f64;
        let replicas = if tolerance.holds(ratio) {
            current
        } else {
            (ratio * ready).ceil() as i32
        };
        return Ok(keep(replicas));
    }
    let careful = fill(wanted.target, &sorted, &requests, ratio, starting);
    let (again, ..) = compare(wanted.target, &careful, &requests);
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerance.holds(again) || turned {
        return Ok(keep(current));
    }
    let replicas = (again * careful.len() as f64).ceil() as i32;
    let other_way = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Ok(keep(if other_way { current } else { replicas }))
}

/// What is measured, and what is assumed of the others.
fn fill<'a>(
    target: Target,
    sorted: &Sorted<'a>,
    requests: &BTreeMap<&'a str, i64>,
    ratio: f64,
    starting: bool,
) -> BTreeMap<&'a str, i64> {
    let mut all = sorted.measured.clone();
    for uid in &sorted.missing {
        let all_of_it = match target {
            Target::Utilization(percent) => {
                requests.get(uid).copied().unwrap_or(0) * percent.max(100) / 100
            }
            Target::Average(value) => value,
        };
        if ratio < 1.0 {
            all.insert(uid, all_of_it);
        } else if ratio > 1.0 {
            all.insert(uid, 0);
        }
    }
    if starting {
        all.extend(sorted.unready.iter().map(|uid| (*uid, 0)));
    }
    all
}

/// Use by target, the share of the requests in percent, and the mean in thousandths.
fn compare(
    target: Target,
    measured: &BTreeMap<&str, i64>,
    requests: &BTreeMap<&str, i64>,
) -> (f64, Option<i64>, i64) {
    let total: i64 = measured.values().sum();
    let average = total / (measured.len() as i64).max(1);
    match target {
        Target::Average(value) => (average as f64 / value.max(1) as f64, None, average),
        Target::Utilization(percent) => {
            let asked: i64 = measured.keys().filter_map(|uid| requests.get(uid)).sum();
            let used = (i128::from(total) * 100 / i128::from(asked.max(1))) as i64;
            let ratio = used as f64 / percent.max(1) as f64;
            (ratio, Some(used), average)
        }
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn sort<'a>(wanted: &Wanted<'_>, pods: &'a [Pod], metrics: &Metrics) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if pod.metadata.deletion_timestamp.is_some() || phase == Some("Failed") {
            continue;
        }
        if phase == Some("Pending") {
            sorted.unready.push(uid(pod));
            continue;
        }
        let used = metrics.pods.get(uid(pod)).and_then(|s| used(wanted, s));
        match used {
            None => sorted.missing.push(uid(pod)),
            Some(_) if wanted.resource == "cpu" && !counts(pod, metrics) => {
                sorted.unready.push(uid(pod));
            }
            Some(used) => drop(sorted.measured.insert(uid(pod), used)),
        }
    }
    sorted
}

/// Thousandths of the unit.
fn used(wanted: &Wanted<'_>, sample: &Sample) -> Option<i64> {
    let one = |used: &Used| match wanted.resource {
        "cpu" => i64::try_from(used.nano_cores.div_ceil(1_000_000)).ok(),
        _ => i64::try_from(used.memory).ok()?.checked_mul(1000),
    };
    match wanted.container {
        Some(name) => sample.containers.get(name).and_then(one),
        None if sample.containers.is_empty() => None,
        None => sample.containers.values().map(one).sum(),
    }
}

/// Whether the CPU of a pod says something: what it spends on its start does not.
fn counts(pod: &Pod, metrics: &Metrics) -> bool {
    let ready = pod_condition(pod, "Ready");
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else {
        return false;
    };
    let is_ready = ready.status == "True";
    let changed = ready.last_transition_time.as_ref().map(|t| t.0);
    let changed = changed.unwrap_or(started.0);
    if metrics.at.duration_since(started.0) < YOUNG {
        let window = SignedDuration::try_from(metrics.window).unwrap_or_default();
        // All of the measured time must lie in the time that it was ready.
        is_ready && metrics.at.duration_since(changed) >= window
    } else {
        is_ready || changed.duration_since(started.0) >= STARTING
    }
}

/// What each pod requests in thousandths. One that does not say it makes a share of it meaningless.
fn requests<'a>(wanted: &Wanted<'_>, pods: &'a [Pod]) -> Result<BTreeMap<&'a str, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        all.insert(uid(pod), request(wanted, pod)?);
    }
    Ok(all)
}

fn request(wanted: &Wanted<'_>, pod: &Pod) -> Result<i64, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else {
        return Err(format!("Pod {name} has no spec"));
    };
    if wanted.container.is_none()
        && let Some(whole) = amount(spec.resources.as_ref(), wanted.resource)
    {
        return Ok(whole);
    }
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let counted = |c: &&Container| wanted.container.is_none_or(|name| name == c.name);
    let mut sum = None;
    for container in spec.containers.iter().chain(sidecars).filter(counted) {
        let (resource, own) = (wanted.resource, &container.name);
        let amount = amount(container.resources.as_ref(), resource);
        let amount = amount.ok_or_else(|| {
            format!("missing request for {resource} in container {own} of Pod {name}")
        })?;
        sum = Some(sum.unwrap_or(0) + amount);
    }
    let container = wanted.container.unwrap_or_default();
    sum.ok_or_else(|| format!("container {container} not found in Pod {name}"))
}

fn amount(resources: Option<&ResourceRequirements>, resource: &str) -> Option<i64> {
    quantity::milli(resources?.requests.as_ref()?.get(resource)?)
}
