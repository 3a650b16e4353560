//! How fast the number of replicas may change: windows of recommendations, and policies.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
};

use super::Step;

/// Where nothing else is said, a smaller number has to be wanted for so long (seconds).
const DOWN_WINDOW: i32 = 300;
/// No window and no period is longer (seconds).
const LONGEST: i64 = 3600;

/// What was wanted and what was done in the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the metrics asked for.
    pub recommended: Vec<(Timestamp, i32)>,
    /// Replicas that were added.
    pub added: Vec<(Timestamp, i32)>,
    /// Replicas that were taken away.
    pub removed: Vec<(Timestamp, i32)>,
}

impl Memory {
    /// Forgets what no rule asks for.
    pub fn trim(&mut self, now: Timestamp) {
        for list in [&mut self.recommended, &mut self.added, &mut self.removed] {
            list.retain(|(at, _)| age(*at, now) <= LONGEST);
        }
    }

    /// Notes a change that was made.
    pub fn note(&mut self, from: i32, to: i32, now: Timestamp) {
        match to - from {
            0 => {}
            n if n > 0 => self.added.push((now, n)),
            n => self.removed.push((now, -n)),
        }
    }

    fn within(list: &[(Timestamp, i32)], seconds: i32, now: Timestamp) -> i32 {
        let recent = list
            .iter()
            .filter(|(at, _)| age(*at, now) < i64::from(seconds));
        recent.map(|(_, n)| n).sum()
    }
}

/// In seconds; a clock that was set back makes nothing older than it is.
fn age(at: Timestamp, now: Timestamp) -> i64 {
    now.duration_since(at).max(SignedDuration::ZERO).as_secs()
}

/// What becomes of a wanted number, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The number.
    pub replicas: i32,
    /// A recommendation within the window held it.
    pub stabilized: Option<Step>,
    /// Reason of the condition ScalingLimited where it is true.
    pub limited: Option<(&'static str, &'static str)>,
}

/// Holds a wanted number to the windows, the policies and the bounds.
pub fn limit(
    spec: &HorizontalPodAutoscalerSpec,
    memory: &Memory,
    current: i32,
    wanted: i32,
    now: Timestamp,
) -> Limited {
    let (stable, stabilized) = stabilize(spec.behavior.as_ref(), memory, current, wanted, now);
    let least = spec.min_replicas.unwrap_or(1);
    let most = spec.max_replicas;
    let (low, high) = match &spec.behavior {
        None => (0, current.saturating_mul(2).max(4)),
        Some(behavior) => (
            slowest(behavior.scale_down.as_ref(), memory, current, now),
            fastest(behavior.scale_up.as_ref(), memory, current, now),
        ),
    };
    let (replicas, limited) = if stable > most.min(high) {
        let why = if high < most {
            (
                "ScaleUpLimit",
                "the desired replica count is increasing faster than the maximum scale rate",
            )
        } else {
            (
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            )
        };
        (most.min(high), Some(why))
    } else if stable < least.max(low) {
        let why = if low > least {
            (
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            )
        } else {
            (
                "TooFewReplicas",
                "the desired replica count is less than the minimum replica count",
            )
        };
        (least.max(low), Some(why))
    } else {
        (stable, None)
    };
    Limited {
        replicas,
        stabilized,
        limited,
    }
}

fn window(rules: Option<&HPAScalingRules>) -> Option<i32> {
    rules.and_then(|r| r.stabilization_window_seconds)
}

/// A number may rise to the least that was wanted in the one window, and fall to the most that was
/// wanted in the other.
fn stabilize(
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    memory: &Memory,
    current: i32,
    wanted: i32,
    now: Timestamp,
) -> (i32, Option<Step>) {
    let up = window(behavior.and_then(|b| b.scale_up.as_ref())).unwrap_or(0);
    let down = window(behavior.and_then(|b| b.scale_down.as_ref())).unwrap_or(DOWN_WINDOW);
    let recent = |window: i32| {
        let mine = memory.recommended.iter();
        mine.filter(move |(at, _)| age(*at, now) < i64::from(window))
            .map(|(_, n)| *n)
    };
    let least = recent(up).fold(wanted, i32::min);
    let most = recent(down).fold(wanted, i32::max);
    let stable = current.max(least).min(most);
    let step = match stable {
        n if n == wanted => None,
        n if n > wanted => Some(Step::Down),
        _ => Some(Step::Up),
    };
    (stable, step)
}

/// The most that may be now.
fn fastest(rules: Option<&HPAScalingRules>, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let proposals = proposals(
        rules,
        memory,
        current,
        now,
        |start, kind, value| match kind {
            "Pods" => start.saturating_add(value),
            _ => (f64::from(start) * (1.0 + f64::from(value) / 100.0)).ceil() as i32,
        },
    );
    let chosen = match select(rules) {
        "Disabled" => Some(current),
        "Min" => proposals.into_iter().min(),
        _ => proposals.into_iter().max(),
    };
    chosen.unwrap_or(i32::MAX).max(current)
}

/// The least that may be now.
fn slowest(rules: Option<&HPAScalingRules>, memory: &Memory, current: i32, now: Timestamp) -> i32 {
    let proposals = proposals(
        rules,
        memory,
        current,
        now,
        |start, kind, value| match kind {
            "Pods" => start.saturating_sub(value),
            _ => (f64::from(start) * (1.0 - f64::from(value) / 100.0)) as i32,
        },
    );
    let chosen = match select(rules) {
        "Disabled" => Some(current),
        // The policy that changes least.
        "Min" => proposals.into_iter().max(),
        _ => proposals.into_iter().min(),
    };
    chosen.unwrap_or(0).min(current)
}

fn select(rules: Option<&HPAScalingRules>) -> &str {
    let policy = rules.and_then(|r| r.select_policy.as_deref());
    policy.unwrap_or("Max")
}

/// Each policy's bound, from where the period began.
fn proposals(
    rules: Option<&HPAScalingRules>,
    memory: &Memory,
    current: i32,
    now: Timestamp,
    bound: impl Fn(i32, &str, i32) -> i32,
) -> Vec<i32> {
    let policies = rules
        .and_then(|r| r.policies.as_ref())
        .into_iter()
        .flatten();
    policies
        .map(|policy| {
            let period = policy.period_seconds;
            let added = Memory::within(&memory.added, period, now);
            let removed = Memory::within(&memory.removed, period, now);
            bound(current - added + removed, &policy.type_, policy.value)
        })
        .collect()
}
