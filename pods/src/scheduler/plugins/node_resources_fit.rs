//! NodeResourcesFit: the node has what the pod requests; the least allocated node is preferred.

use super::{Cycle, Filter, MAX_SCORE, Score};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter {
    name: "NodeResourcesFit",
    filter,
    resolvable: true,
};

pub(super) const SCORE: Score = Score {
    name: "NodeResourcesFit",
    weight: 1,
    score: least_allocated,
    normalize: None,
};

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let pod = cycle.pod;
    let mut short = Vec::new();
    if node.pods + 1 > node.max_pods {
        short.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, asked: i64, used: i64, have: i64| {
        if asked > 0 && asked > have - used {
            short.push(format!("Insufficient {name}"));
        }
    };
    let (asked, used, have) = (&pod.requests, &node.requested, &node.allocatable);
    check("cpu", asked.milli_cpu, used.milli_cpu, have.milli_cpu);
    check("memory", asked.memory, used.memory, have.memory);
    check(
        "ephemeral-storage",
        asked.storage,
        used.storage,
        have.storage,
    );
    for (name, amount) in &asked.other {
        let of =
            |all: &std::collections::BTreeMap<String, i64>| all.get(name).copied().unwrap_or(0);
        check(name, *amount, of(&used.other), of(&have.other));
    }
    if short.is_empty() { Ok(()) } else { Err(short) }
}

/// The mean share of CPU and memory that stays free, in hundredths.
fn least_allocated(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let pod = cycle.pod;
    let free = |used: i64, have: i64| {
        if have <= 0 || used > have {
            0
        } else {
            (have - used) * MAX_SCORE / have
        }
    };
    let cpu = free(node.scored.0 + pod.scored.0, node.allocatable.milli_cpu);
    let memory = free(node.scored.1 + pod.scored.1, node.allocatable.memory);
    i64::midpoint(cpu, memory)
}
