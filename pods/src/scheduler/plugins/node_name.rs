//! NodeName: a pod that names its node goes there or nowhere.

use super::Filter;
use crate::scheduler::snapshot::{NodeInfo, PodInfo};

pub(super) const FILTER: Filter = Filter {
    name: "NodeName",
    filter,
};

fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Vec<String>> {
    match pod.node_name() {
        Some(name) if name != node.name => Err(vec![
            "node(s) didn't match the requested node name".to_owned(),
        ]),
        _ => Ok(()),
    }
}
