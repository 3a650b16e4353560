//! Who could be evicted for what, and what is said of it, in the kubelet's words.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;

use super::storage::Taken;
use super::{Candidate, Crossed, Lack};
use crate::node::names::uid;
use crate::quantity;

/// The resource that lacks.
fn resource(lack: Lack) -> &'static str {
    match lack {
        Lack::Memory => "memory",
        Lack::Disk(_) => "ephemeral-storage",
        Lack::Inodes(_) => "inodes",
    }
}

fn bytes(amount: u64) -> String {
    quantity::format_nano(i128::from(amount) * 1_000_000_000, "memory")
}

/// What lacks.
pub(super) fn low(crossed: Crossed) -> String {
    let what = resource(crossed.lack);
    let amount = |n: u64| match crossed.lack {
        Lack::Inodes(_) => quantity::format_nano(i128::from(n) * 1_000_000_000, "inodes"),
        _ => bytes(n),
    };
    let (threshold, left) = (amount(crossed.threshold), amount(crossed.left));
    format!(
        "The node was low on resource: {what}. Threshold quantity: {threshold}, available: {left}. "
    )
}

/// What lacks, and which containers use more of it than they asked for.
pub(super) fn why(pod: &Pod, crossed: Crossed, used: &Taken) -> String {
    let what = resource(crossed.lack);
    let mut out = low(crossed);
    if let Lack::Inodes(_) = crossed.lack {
        // What is measured is bytes.
        return out;
    }
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let requests = container
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|all| all.get(what));
        let asked = request.and_then(quantity::value).unwrap_or(0);
        let asked = u64::try_from(asked).unwrap_or(0);
        let using = used.containers.get(&container.name).copied().unwrap_or(0);
        if using > asked {
            let (name, using) = (&container.name, bytes(using));
            let request = request.map_or("0", |q| q.0.as_str());
            let _ = write!(
                out,
                "Container {name} was using {using}, request is {request}, has larger consumption of {what}. "
            );
        }
    }
    out
}

/// What counts of a pod when one has to go.
pub(super) fn candidate(pod: &Pod, lack: Lack, used: &Taken) -> Candidate {
    let spec = pod.spec.clone().unwrap_or_default();
    let asked = crate::resources::pod_requests(&spec);
    let asked = match lack {
        Lack::Memory => asked.memory,
        Lack::Disk(_) => asked.storage,
        // Nobody asks for them.
        Lack::Inodes(_) => 0,
    };
    Candidate {
        uid: uid(pod).to_owned(),
        priority: spec.priority.unwrap_or(0),
        used: used.total(),
        asked: u64::try_from(asked).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_told_as_the_kubelet_tells_it() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"memory": "1Mi"}}}, {"name": "b"}]}}))
            .unwrap();
        let crossed = Crossed {
            lack: Lack::Memory,
            left: 3 << 10,
            threshold: 100 << 20,
        };
        let mut used = Taken::default();
        used.containers.insert("a".to_owned(), 1 << 20);
        used.containers.insert("b".to_owned(), 5 << 10);
        assert_eq!(
            why(&pod, crossed, &used),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 3Ki. \
             Container b was using 5Ki, request is 0, has larger consumption of memory. "
        );
        let found = candidate(&pod, Lack::Memory, &used);
        assert_eq!((found.used, found.asked), ((1 << 20) + (5 << 10), 1 << 20));
    }
}
