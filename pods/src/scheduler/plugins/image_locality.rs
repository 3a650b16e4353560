//! ImageLocality: a node that has the images is preferred, by their size.

use super::{Cycle, MAX_SCORE, Score};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const SCORE: Score = Score {
    name: "ImageLocality",
    weight: 1,
    score,
    normalize: None,
};

/// Smaller than this is not worth a thought, larger than this for each container is all the same.
const LEAST: i64 = 23 << 20;
const MOST: i64 = 1000 << 20;

fn score(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    if node.images.is_empty() {
        return 0;
    }
    let Some(spec) = &cycle.pod.pod.spec else {
        return 0;
    };
    let init = spec.init_containers.iter().flatten();
    let (mut sum, mut count) = (0_i64, 0_i64);
    let nodes = cycle.world.nodes.len().max(1) as i64;
    for container in spec.containers.iter().chain(init) {
        count += 1;
        let image = full_name(container.image.as_deref().unwrap_or_default());
        let Some(size) = node.images.get(&image) else {
            continue;
        };
        // An image that few nodes have draws less, lest they all get the pods.
        let having = cycle
            .world
            .nodes
            .iter()
            .filter(|n| n.images.contains_key(&image))
            .count() as i64;
        sum += size * having / nodes;
    }
    let most = MOST * count.max(1);
    (sum.clamp(LEAST, most) - LEAST) * MAX_SCORE / (most - LEAST)
}

/// With the tag that is meant where none is said.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
