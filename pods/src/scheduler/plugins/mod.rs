//! The plugins, in the order in which kube-scheduler's default profile asks them.

mod balanced_allocation;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;

pub use node_affinity::matches_node_affinity;
pub use taint_toleration::tolerates;

use super::snapshot::{NodeInfo, PodInfo};

/// The most a score can be.
pub const MAX_SCORE: i64 = 100;

/// A plugin that can refuse a node.
pub struct Filter {
    /// Kubernetes' name of it.
    pub name: &'static str,
    /// `Err` holds the reasons, in Kubernetes' words.
    pub filter: fn(&PodInfo, &NodeInfo) -> Result<(), Vec<String>>,
}

/// A plugin that rates nodes.
pub struct Score {
    /// Kubernetes' name of it.
    pub name: &'static str,
    /// Kubernetes' default weight.
    pub weight: i64,
    /// The rating of one node.
    pub score: fn(&PodInfo, &NodeInfo) -> i64,
    /// Brings raw ratings into 0..=[`MAX_SCORE`].
    pub normalize: Option<fn(&mut [i64])>,
}

/// Filters of the default profile.
pub const FILTERS: &[Filter] = &[
    node_unschedulable::FILTER,
    node_name::FILTER,
    taint_toleration::FILTER,
    node_affinity::FILTER,
    node_ports::FILTER,
    node_resources_fit::FILTER,
];

/// Scores of the default profile.
pub const SCORES: &[Score] = &[
    taint_toleration::SCORE,
    node_affinity::SCORE,
    node_resources_fit::SCORE,
    balanced_allocation::SCORE,
];

/// Scales ratings so that the highest becomes [`MAX_SCORE`]; `reverse` makes the lowest the best.
fn normalize(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (highest, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (_, false) => *score * MAX_SCORE / highest,
            (_, true) => MAX_SCORE - *score * MAX_SCORE / highest,
        };
    }
}
