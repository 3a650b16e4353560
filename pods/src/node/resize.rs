//! Whether the node has what a running pod now asks for: a resize that it has not waits, and the pod says
//! so, in the kubelet's words.

use k8s_openapi::api::core::v1::Pod;
use rrun_cri_api::v1::{ContainerState, ContainerStatus};

use super::memory::every_container;
use super::run::Shared;
use super::runtime::Runtime;
use super::security;
use crate::resources::{Resources, pod_requests};
use crate::scheduler::snapshot::finished;
use crate::store::Selector;

/// A resize that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Infeasible`: the node will never have it; `Deferred`: it has not now.
    pub reason: &'static str,
    /// What is lacking.
    pub message: String,
}

impl Shared {
    /// What the other pods of the node ask for.
    pub fn others_ask(&self, pod: &Pod) -> Resources {
        let mut sum = Resources::default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
        let mine = format!("spec.nodeName={}", node.unwrap_or_default());
        let Ok(mine) = Selector::all().with_fields(&mine) else {
            return sum;
        };
        let all: Vec<Pod> = self.client.list_as("", &mine).unwrap_or_default();
        let others = all.iter().filter(|p| p.metadata.uid != pod.metadata.uid);
        for spec in others
            .filter(|p| !finished(p))
            .filter_map(|p| p.spec.as_ref())
        {
            sum.add(&pod_requests(spec));
        }
        sum
    }
}

/// Whether a container runs with other resources than its spec wants.
pub fn is_wanted(pod: &Pod, runtime: &Runtime) -> bool {
    let differs = |status: &ContainerStatus| {
        let now = status.resources.as_ref().and_then(|r| r.linux.as_ref());
        let name = super::runtime::name_of(status);
        let container = every_container(pod).into_iter().find(|c| c.name == name);
        let wanted = container
            .zip(now)
            .and_then(|(c, now)| security::resized(&c, now));
        wanted.is_some() && status.state() == ContainerState::ContainerRunning
    };
    runtime.running().any(differs)
}

/// Why a pod that now asks for `asked` has to wait; `others` is what the node's other pods ask for.
pub fn pending(asked: &Resources, others: &Resources, node: &Resources) -> Option<Pending> {
    let each = |r: &Resources| [("cpu", r.milli_cpu), ("memory", r.memory)];
    let rows = || each(asked).into_iter().zip(each(others)).zip(each(node));
    for (((name, asked), _), (_, capacity)) in rows() {
        if asked > capacity {
            return Some(Pending {
                reason: "Infeasible",
                message: format!(
                    "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}"
                ),
            });
        }
    }
    for (((name, asked), (_, used)), (_, capacity)) in rows() {
        if asked > 0 && asked + used > capacity {
            return Some(Pending {
                reason: "Deferred",
                message: format!(
                    "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(milli_cpu: i64, memory: i64) -> Resources {
        Resources {
            milli_cpu,
            memory,
            ..Resources::default()
        }
    }

    #[test]
    fn what_the_node_never_has_is_infeasible_and_what_others_have_is_deferred() {
        let node = resources(2000, 1000);
        let of = |asked, others| pending(&asked, &others, &node);
        assert_eq!(of(resources(500, 100), resources(1500, 900)), None);
        let found = of(resources(50_000, 0), resources(0, 0)).unwrap();
        assert_eq!(found.reason, "Infeasible");
        assert_eq!(
            found.message,
            "Node didn't have enough capacity: cpu, requested: 50000, capacity: 2000"
        );
        let found = of(resources(500, 200), resources(0, 900)).unwrap();
        assert_eq!(found.reason, "Deferred");
        assert_eq!(
            found.message,
            "Node didn't have enough resource: memory, requested: 200, used: 900, capacity: 1000"
        );
    }
}
