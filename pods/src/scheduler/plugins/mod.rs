//! The plugins, in the order in which kube-scheduler's default profile asks them.

mod balanced_allocation;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;
mod volume_binding;

pub use node_affinity::{matches_node_affinity, matches_selector};
pub use taint_toleration::tolerates;
pub use volume_binding::waits as waits_for_volumes;

use super::snapshot::{NodeInfo, PodInfo, Snapshot};

/// The most a score can be.
pub const MAX_SCORE: i64 = 100;

/// One decision: the pod, the world, and what plugins found out before they look at nodes.
pub struct Cycle<'a> {
    /// The pod to be placed.
    pub pod: &'a PodInfo,
    /// The world.
    pub world: &'a Snapshot,
    affinity: inter_pod_affinity::State,
    spread: pod_topology_spread::State,
}

impl<'a> Cycle<'a> {
    /// Finds out what does not depend on a node.
    pub fn new(pod: &'a PodInfo, world: &'a Snapshot) -> Self {
        Self {
            pod,
            world,
            affinity: inter_pod_affinity::State::new(pod, world),
            spread: pod_topology_spread::State::new(pod, world),
        }
    }
}

/// A plugin that can refuse a node.
pub struct Filter {
    /// Kubernetes' name of it.
    pub name: &'static str,
    /// `Err` holds the reasons, in Kubernetes' words.
    pub filter: fn(&Cycle<'_>, &NodeInfo) -> Result<(), Vec<String>>,
    /// Whether the node may do once pods are removed from it.
    pub resolvable: bool,
}

/// A plugin that rates nodes.
pub struct Score {
    /// Kubernetes' name of it.
    pub name: &'static str,
    /// Kubernetes' default weight.
    pub weight: i64,
    /// The rating of one node.
    pub score: fn(&Cycle<'_>, &NodeInfo) -> i64,
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
    volume_binding::FILTER,
    pod_topology_spread::FILTER,
    inter_pod_affinity::FILTER,
];

/// Scores of the default profile.
pub const SCORES: &[Score] = &[
    taint_toleration::SCORE,
    node_affinity::SCORE,
    node_resources_fit::SCORE,
    pod_topology_spread::SCORE,
    inter_pod_affinity::SCORE,
    balanced_allocation::SCORE,
    image_locality::SCORE,
];

/// What makes every node unfit at once, in Kubernetes' words.
pub fn before(pod: &PodInfo, world: &Snapshot) -> Result<(), String> {
    volume_binding::before(pod, world)
}

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
