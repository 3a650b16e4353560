//! NodeResourcesBalancedAllocation: a node whose CPU and memory fill evenly is preferred.

use super::{Cycle, MAX_SCORE, Score};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const SCORE: Score = Score {
    name: "NodeResourcesBalancedAllocation",
    weight: 1,
    score,
    normalize: None,
};

fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let pod = cycle.pod;
    #[allow(clippy::cast_precision_loss)]
    let share = |used: i64, have: i64| {
        if have <= 0 {
            1.0
        } else {
            (used as f64 / have as f64).min(1.0)
        }
    };
    let cpu = share(
        node.requested.milli_cpu + pod.requests.milli_cpu,
        node.allocatable.milli_cpu,
    );
    let memory = share(
        node.requested.memory + pod.requests.memory,
        node.allocatable.memory,
    );
    // The standard deviation of two values is half their distance.
    let deviation: f64 = (cpu - memory).abs() / 2.0;
    #[allow(clippy::cast_precision_loss)]
    let score = (1.0 - deviation) * MAX_SCORE as f64;
    score as i64
}
