//! Deployment: replica sets, one per revision of the template, moved from the old to the new.
//!
//! ```text
//! template changed ──▶ new set at 0 ──▶ grow new (≤ replicas + maxSurge) ◀──▶ shrink old (≥ replicas − maxUnavailable)
//!                                             └──▶ old sets at 0, the oldest beyond revisionHistoryLimit removed
//! ```
//!
//! `rollout undo` is a client's: it writes an old set's template into the Deployment.

mod progress;
mod rolling;
mod sets;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

pub use rolling::{fence, strategy};
pub use sets::{HASH_LABEL, REVISION, template_hash};

/// One write. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make the replica set of the current template.
    Create(Box<ReplicaSet>),
    /// Set the replicas of a set, and the annotations that remember what they were meant for.
    Scale {
        /// Name of the set.
        name: String,
        /// Its new number of replicas.
        replicas: i32,
        /// Annotations to set.
        annotations: BTreeMap<String, String>,
    },
    /// Set annotations of a set.
    AnnotateSet {
        /// Name of the set.
        name: String,
        /// Annotations to set.
        annotations: BTreeMap<String, String>,
    },
    /// Set annotations of the Deployment.
    Annotate(BTreeMap<String, String>),
    /// Remove a set of an old revision.
    Remove(String),
    /// The name of the new set is taken by a set of another template: count a collision.
    Collision(DeploymentStatus),
    /// Store the status.
    Status(DeploymentStatus),
}

/// What to do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// Writes, in order.
    pub steps: Vec<Step>,
    /// Seconds after which the progress deadline passes.
    pub again_after: Option<i64>,
    /// An event to tell: (reason, message).
    pub events: Vec<(&'static str, String)>,
}

/// Compares the Deployment with the replica sets it manages. `pods_left` tells, for Recreate,
/// whether pods of old sets still exist.
pub fn plan(deployment: &Deployment, sets: &[ReplicaSet], pods_left: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &deployment.spec else {
        return plan;
    };
    let family = sets::Family::new(deployment, sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        progress::report(deployment, &family, now, &mut plan);
        return plan;
    }
    let paused = spec.paused == Some(true);
    if !paused && !sets::ensure_new(deployment, &family, &mut plan) {
        progress::report(deployment, &family, now, &mut plan);
        return plan;
    }
    if paused || family.rescaled(deployment) {
        rolling::scale(deployment, &family, &mut plan);
    } else if rolling::is_recreate(deployment) {
        rolling::recreate(deployment, &family, pods_left, &mut plan);
    } else {
        rolling::roll(deployment, &family, &mut plan);
    }
    if !paused && progress::is_complete(deployment, &progress::count(deployment, &family)) {
        sets::clean_up(deployment, &family, &mut plan);
    }
    progress::report(deployment, &family, now, &mut plan);
    plan
}

#[cfg(test)]
mod tests;
