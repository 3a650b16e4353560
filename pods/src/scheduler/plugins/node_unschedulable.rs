//! NodeUnschedulable: refuses cordoned nodes to pods that do not tolerate it.

use k8s_openapi::api::core::v1::Taint;

use super::{Cycle, Filter, taint_toleration::tolerates};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter {
    name: "NodeUnschedulable",
    filter,
    resolvable: false,
};

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let pod = cycle.pod;
    let spec = node.node.spec.as_ref();
    if spec.and_then(|s| s.unschedulable) != Some(true) {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if tolerates(&pod.pod, &taint) {
        return Ok(());
    }
    Err(vec!["node(s) were unschedulable".to_owned()])
}
