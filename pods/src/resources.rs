//! What a pod asks for: requests and limits summed as the scheduler and the kubelet do, QoS class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// An amount of each resource: CPU in thousandths, the others in whole units (bytes, devices).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of `ephemeral-storage`.
    pub storage: i64,
    /// Every other resource by name (`hugepages-2Mi`, extended resources).
    pub other: BTreeMap<String, i64>,
}

type Map = BTreeMap<String, Quantity>;

impl Resources {
    /// Reads a resource list. A quantity that does not parse counts as nothing: validation refused it.
    pub fn read(map: Option<&Map>) -> Self {
        let mut all = Self::default();
        for (name, amount) in map.into_iter().flatten() {
            match name.as_str() {
                "cpu" => all.milli_cpu = quantity::milli(amount).unwrap_or(0),
                "memory" => all.memory = quantity::value(amount).unwrap_or(0),
                "ephemeral-storage" => all.storage = quantity::value(amount).unwrap_or(0),
                // Counted by the node's own field.
                "pods" => {}
                other => {
                    let amount = quantity::value(amount).unwrap_or(0);
                    all.other.insert(other.to_owned(), amount);
                }
            }
        }
        all
    }

    /// Adds `more` to each resource.
    pub fn add(&mut self, more: &Self) {
        self.milli_cpu += more.milli_cpu;
        self.memory += more.memory;
        self.storage += more.storage;
        for (name, amount) in &more.other {
            *self.other.entry(name.clone()).or_default() += amount;
        }
    }

    /// Takes `less` from each resource.
    pub fn sub(&mut self, less: &Self) {
        self.milli_cpu -= less.milli_cpu;
        self.memory -= less.memory;
        self.storage -= less.storage;
        for (name, amount) in &less.other {
            *self.other.entry(name.clone()).or_default() -= amount;
        }
    }

    /// Raises each resource to at least that of `floor`.
    pub fn raise(&mut self, floor: &Self) {
        self.milli_cpu = self.milli_cpu.max(floor.milli_cpu);
        self.memory = self.memory.max(floor.memory);
        self.storage = self.storage.max(floor.storage);
        for (name, amount) in &floor.other {
            let mine = self.other.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// Whether an init container is a sidecar: it keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod as a whole requests: its containers and sidecars together, or the largest step of
/// its init sequence, whichever is more; pod-level requests and overhead (KEP-753, KEP-2837).
pub fn pod_requests(spec: &PodSpec) -> Resources {
    let mut sum = total(spec, |r| {
        let mut asked = Resources::read(r.limits.as_ref());
        // A limit without a request is the request, as defaulting has it.
        let explicit = Resources::read(r.requests.as_ref());
        let has = |name: &str| r.requests.as_ref().is_some_and(|m| m.contains_key(name));
        if has("cpu") {
            asked.milli_cpu = explicit.milli_cpu;
        }
        if has("memory") {
            asked.memory = explicit.memory;
        }
        if has("ephemeral-storage") {
            asked.storage = explicit.storage;
        }
        asked.other.extend(explicit.other);
        asked
    });
    sum.add(&Resources::read(spec.overhead.as_ref()));
    sum
}

/// What the pod as a whole is limited to; zero where nothing is said.
pub fn pod_limits(spec: &PodSpec) -> Resources {
    let mut sum = total(spec, |r| Resources::read(r.limits.as_ref()));
    // What is not limited stays so.
    let overhead = Resources::read(spec.overhead.as_ref());
    let more = |limit: &mut i64, by: i64| *limit += if *limit > 0 { by } else { 0 };
    more(&mut sum.milli_cpu, overhead.milli_cpu);
    more(&mut sum.memory, overhead.memory);
    more(&mut sum.storage, overhead.storage);
    sum
}

fn total(spec: &PodSpec, of: impl Fn(&ResourceRequirements) -> Resources) -> Resources {
    let read = |c: &Container| c.resources.as_ref().map(&of).unwrap_or_default();
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&read(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for init in spec.init_containers.iter().flatten() {
        let mut step = read(init);
        if is_sidecar(init) {
            sum.add(&step);
            sidecars.add(&step);
            step = sidecars.clone();
        } else {
            step.add(&sidecars);
        }
        peak.raise(&step);
    }
    sum.raise(&peak);
    if let Some(pod) = &spec.resources {
        let own = of(pod);
        if own.milli_cpu > 0 {
            sum.milli_cpu = own.milli_cpu;
        }
        if own.memory > 0 {
            sum.memory = own.memory;
        }
    }
    sum
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from CPU and memory alone.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let mut guaranteed = true;
    let mut any = false;
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let own = spec.resources.as_ref();
    let all: Vec<Option<&ResourceRequirements>> = match own {
        Some(pod) if pod.requests.is_some() || pod.limits.is_some() => vec![Some(pod)],
        _ => containers.map(|c| c.resources.as_ref()).collect(),
    };
    for resources in all {
        let get = |map: Option<&Map>, name: &str| {
            map.and_then(|m| m.get(name))
                .and_then(|q| quantity::parse_nano(&q.0))
                .filter(|n| *n > 0)
        };
        for name in ["cpu", "memory"] {
            let limit = get(resources.and_then(|r| r.limits.as_ref()), name);
            let request = get(resources.and_then(|r| r.requests.as_ref()), name).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_largest_init_step_counts_where_it_is_more() {
        let spec = spec(json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "big", "resources": {"requests": {"cpu": "1", "memory": "10Mi"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "300m"}, "limits": {"memory": "64Mi"}}}]
        }));
        let asked = pod_requests(&spec);
        assert_eq!((asked.milli_cpu, asked.memory), (1100, 64 << 20));
        assert_eq!(qos_class(&spec), "Burstable");
    }

    #[test]
    fn overhead_counts_beside_what_is_asked_for_and_lifts_limits_that_there_are() {
        let spec = spec(json!({"overhead": {"cpu": "250m", "memory": "64Mi"},
            "containers": [{"name": "a", "resources": {"limits": {"memory": "64Mi"}}}]}));
        let (asked, limits) = (pod_requests(&spec), pod_limits(&spec));
        assert_eq!((asked.milli_cpu, asked.memory), (250, 128 << 20));
        assert_eq!((limits.milli_cpu, limits.memory), (0, 128 << 20));
    }

    #[test]
    fn qos_follows_cpu_and_memory() {
        let best = spec(json!({"containers": [{"name": "a"}]}));
        assert_eq!(qos_class(&best), "BestEffort");
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let full = spec(json!({"containers": [{"name": "a", "resources": limits}]}));
        assert_eq!(qos_class(&full), "Guaranteed");
    }
}
