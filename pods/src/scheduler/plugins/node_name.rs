//! NodeName: a pod that names its node goes there or nowhere.

use super::{Cycle, Filter};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter {
    name: "NodeName",
    filter,
    resolvable: false,
};

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let pod = cycle.pod;
    match pod.node_name() {
        Some(name) if name != node.name => Err(vec![
            "node(s) didn't match the requested node name".to_owned(),
        ]),
        _ => Ok(()),
    }
}
