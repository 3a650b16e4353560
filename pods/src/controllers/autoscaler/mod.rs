//! HorizontalPodAutoscaler: as many replicas as keep what is measured at what is aimed at.
//!
//! ```text
//! metrics of the target's pods ─▶ a proposal for each ─▶ the largest ─▶ windows, policies, bounds ─▶ scale
//! ```
//!
//! The plan is a pure function; what was wanted and done lately is kept by who runs it, and is not
//! known after a restart, as upstream.

pub mod behavior;
pub mod metrics;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus,
    MetricTarget, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::quantity;
use behavior::Memory;
use metrics::{Metrics, Proposal, Target, Tolerance, Wanted};

/// Of a ratio of one.
const TOLERANCE: f64 = 0.1;

/// Which way a number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More.
    Up,
    /// Fewer.
    Down,
}

/// What is scaled.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Replicas that are wanted.
    pub wanted: i32,
    /// Replicas that there are.
    pub there: i32,
    /// The pods that its selector selects.
    pub pods: Vec<Pod>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The number to set, and why.
    pub rescale: Option<(i32, String)>,
    /// The status.
    pub status: HorizontalPodAutoscalerStatus,
    /// Warnings: reason and message.
    pub warnings: Vec<(String, String)>,
    /// What is remembered, once the number was set.
    pub memory: Memory,
}

/// Conditions that are set one after the other, from those there were.
struct Conditions {
    list: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
}

impl Conditions {
    fn set(&mut self, kind: &str, is: bool, reason: &str, message: impl Into<String>) {
        let status = if is { "True" } else { "False" };
        let found = self.list.iter().position(|c| c.type_ == kind);
        let since = found.map(|i| &self.list[i]).filter(|c| c.status == status);
        let since = since.and_then(|c| c.last_transition_time.clone());
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
        };
        match found {
            Some(i) => self.list[i] = condition,
            None => self.list.push(condition),
        }
    }
}

/// What a metric asks for.
struct Answer {
    proposal: Proposal,
    name: String,
    status: MetricStatus,
}

/// A failure to get a metric: reason and message.
type Failure = (&'static str, String);

/// Decides. `metrics` tells why there are none, where that is so.
pub fn plan(
    autoscaler: &HorizontalPodAutoscaler,
    scale: &Result<Scale, String>,
    metrics: &Result<Metrics, String>,
    memory: &Memory,
    now: Timestamp,
) -> Decision {
    let old = autoscaler.status.clone().unwrap_or_default();
    let mut decision = Decision {
        rescale: None,
        status: old.clone(),
        warnings: Vec::new(),
        memory: memory.clone(),
    };
    decision.memory.trim(now);
    let mut conditions = Conditions {
        list: old.conditions.unwrap_or_default(),
        now,
    };
    match scale {
        Err(why) => {
            let message =
                format!("the HPA controller was unable to get the target's current scale: {why}");
            conditions.set("AbleToScale", false, "FailedGetScale", message);
            decision
                .warnings
                .push(("FailedGetScale".to_owned(), why.clone()));
        }
        Ok(scale) => {
            let message = "the HPA controller was able to get the target's current scale";
            conditions.set("AbleToScale", true, "SucceededGetScale", message);
            decide(autoscaler, scale, metrics, &mut conditions, &mut decision);
        }
    }
    decision.status.conditions = Some(conditions.list);
    decision
}

fn decide(
    autoscaler: &HorizontalPodAutoscaler,
    scale: &Scale,
    metrics: &Result<Metrics, String>,
    conditions: &mut Conditions,
    decision: &mut Decision,
) {
    let spec = &autoscaler.spec;
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let current = scale.wanted;
    decision.status.current_replicas = Some(scale.there);
    let (desired, why) = if current == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        conditions.set("ScalingActive", false, "ScalingDisabled", message);
        decision.status.desired_replicas = 0;
        decision.status.current_metrics = None;
        return;
    } else if current > most {
        (
            most,
            "Current number of replicas above Spec.MaxReplicas".to_owned(),
        )
    } else if current < least {
        (
            least,
            "Current number of replicas below Spec.MinReplicas".to_owned(),
        )
    } else {
        match measured(autoscaler, scale, metrics, conditions, decision) {
            Some(found) => found,
            None => {
                decision.status.desired_replicas = current;
                return;
            }
        }
    };
    decision.status.desired_replicas = desired;
    if desired != current {
        let message =
            format!("the HPA controller was able to update the target scale to {desired}");
        conditions.set("AbleToScale", true, "SucceededRescale", message);
        decision.status.last_scale_time = Some(Time(conditions.now));
        decision.memory.note(current, desired, conditions.now);
        decision.rescale = Some((desired, why));
    }
}

/// The number that the metrics come to; `None` where they say nothing.
fn measured(
    autoscaler: &HorizontalPodAutoscaler,
    scale: &Scale,
    metrics: &Result<Metrics, String>,
    conditions: &mut Conditions,
    decision: &mut Decision,
) -> Option<(i32, String)> {
    let (spec, current, now) = (&autoscaler.spec, scale.wanted, conditions.now);
    let mut recommended = &mut decision.memory.recommended;
    if recommended.is_empty() {
        // Nothing is known of before: what is there was wanted.
        recommended.push((now, current));
    }
    let (answers, failures) = ask(autoscaler, scale, metrics);
    for (reason, message) in &failures {
        decision
            .warnings
            .push(((*reason).to_owned(), message.clone()));
    }
    let best = answers.iter().max_by_key(|a| a.proposal.replicas);
    let wanted = best.map(|a| (a.proposal.replicas, a.name.clone()));
    let statuses: Vec<MetricStatus> = answers.iter().map(|a| a.status.clone()).collect();
    decision.status.current_metrics = Some(statuses).filter(|s| !s.is_empty());
    let first = failures.first();
    let wanted = match (wanted, first) {
        // Where one metric is not known, it could be the one that wants more.
        (Some((n, _)), Some(_)) if n < current => None,
        (wanted, _) => wanted,
    };
    let Some((wanted, name)) = wanted else {
        let (reason, message) = first?;
        let message = format!("the HPA was unable to compute the replica count: {message}");
        conditions.set("ScalingActive", false, reason, message);
        let (bad, all) = (failures.len(), failures.len() + answers.len());
        decision.warnings.push((
            "FailedComputeMetricsReplicas".to_owned(),
            format!(
                "invalid metrics ({bad} invalid out of {all}), first error is: {}",
                first?.1
            ),
        ));
        return None;
    };
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    conditions.set("ScalingActive", true, "ValidMetricFound", message);
    let held = behavior::limit(spec, &decision.memory, current, wanted, now);
    recommended = &mut decision.memory.recommended;
    recommended.push((now, wanted));
    say(conditions, &held);
    let why = if held.replicas > current {
        format!("{name} above target")
    } else {
        "All metrics below target".to_owned()
    };
    Some((held.replicas, why))
}

fn say(conditions: &mut Conditions, held: &behavior::Limited) {
    match held.stabilized {
        Some(Step::Down) => conditions.set(
            "AbleToScale",
            true,
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ),
        Some(Step::Up) => conditions.set(
            "AbleToScale",
            true,
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ),
        None => conditions.set(
            "AbleToScale",
            true,
            "ReadyForNewScale",
            "recommended size matches current size",
        ),
    }
    match held.limited {
        Some((reason, message)) => conditions.set("ScalingLimited", true, reason, message),
        None => conditions.set(
            "ScalingLimited",
            false,
            "DesiredWithinRange",
            "the desired count is within the acceptable range",
        ),
    }
}

fn ask(
    autoscaler: &HorizontalPodAutoscaler,
    scale: &Scale,
    metrics: &Result<Metrics, String>,
) -> (Vec<Answer>, Vec<Failure>) {
    let tolerance = tolerance(autoscaler.spec.behavior.as_ref());
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for metric in autoscaler.spec.metrics.iter().flatten() {
        match one(metric, scale, metrics, tolerance) {
            Ok(answer) => answers.push(answer),
            Err(failure) => failures.push(failure),
        }
    }
    (answers, failures)
}

fn tolerance(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Tolerance {
    let of = |quantity: Option<&Quantity>| {
        let milli = quantity.and_then(quantity::milli);
        let milli = milli.and_then(|n| i32::try_from(n).ok());
        milli.map_or(TOLERANCE, |n| f64::from(n) / 1000.0)
    };
    let up = behavior.and_then(|b| b.scale_up.as_ref()?.tolerance.as_ref());
    let down = behavior.and_then(|b| b.scale_down.as_ref()?.tolerance.as_ref());
    Tolerance {
        up: of(up),
        down: of(down),
    }
}

fn one(
    metric: &MetricSpec,
    scale: &Scale,
    metrics: &Result<Metrics, String>,
    tolerance: Tolerance,
) -> Result<Answer, Failure> {
    let (resource, container, target) = match (&metric.resource, &metric.container_resource) {
        (Some(source), _) => (&source.name, None, &source.target),
        (_, Some(source)) => (
            &source.name,
            Some(source.container.as_str()),
            &source.target,
        ),
        _ => return Err(not_there(&metric.type_)),
    };
    let reason = match container {
        None => "FailedGetResourceMetric",
        Some(_) => "FailedGetContainerResourceMetric",
    };
    let failed = |why: String| {
        (
            reason,
            format!("failed to get {resource} utilization: {why}"),
        )
    };
    let wanted = Wanted {
        resource,
        container,
        target: aim(target).map_err(failed)?,
    };
    if !matches!(resource.as_str(), "cpu" | "memory") {
        return Err(failed(format!("{resource} is not measured")));
    }
    let metrics = metrics.as_ref().map_err(|why| failed(why.clone()))?;
    let proposal = metrics::propose(&wanted, &scale.pods, metrics, scale.wanted, tolerance);
    let proposal = proposal.map_err(failed)?;
    let of = if container.is_some() {
        " container"
    } else {
        ""
    };
    let share = match wanted.target {
        Target::Utilization(_) => " utilization (percentage of request)",
        Target::Average(_) => "",
    };
    Ok(Answer {
        proposal,
        name: format!("{resource}{of} resource{share}"),
        status: status(metric, &wanted, proposal),
    })
}

fn aim(target: &MetricTarget) -> Result<Target, String> {
    if let Some(percent) = target.average_utilization {
        return Ok(Target::Utilization(i64::from(percent)));
    }
    let average = target.average_value.as_ref().and_then(quantity::milli);
    let why =
        "invalid resource metric source: neither a utilization target nor a value target was set";
    average.map(Target::Average).ok_or_else(|| why.to_owned())
}

fn not_there(kind: &str) -> Failure {
    let (reason, group) = match kind {
        "External" => ("FailedGetExternalMetric", "external.metrics.k8s.io"),
        "Object" => ("FailedGetObjectMetric", "custom.metrics.k8s.io"),
        _ => ("FailedGetPodsMetric", "custom.metrics.k8s.io"),
    };
    let message = format!("unable to get a metric of type {kind}: there is no {group} here");
    (reason, message)
}

fn status(metric: &MetricSpec, wanted: &Wanted<'_>, proposal: Proposal) -> MetricStatus {
    let nano = i128::from(proposal.average) * 1_000_000;
    let current = MetricValueStatus {
        average_utilization: proposal.utilization.map(|n| n as i32),
        average_value: Some(Quantity(quantity::format_nano(nano, wanted.resource))),
        value: None,
    };
    let mut status = MetricStatus {
        type_: metric.type_.clone(),
        ..MetricStatus::default()
    };
    let name = wanted.resource.to_owned();
    match wanted.container {
        None => status.resource = Some(ResourceMetricStatus { name, current }),
        Some(container) => {
            status.container_resource = Some(ContainerResourceMetricStatus {
                name,
                container: container.to_owned(),
                current,
            });
        }
    }
    status
}
