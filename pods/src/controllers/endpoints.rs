//! Endpoints of Services: the pods a selector finds, as EndpointSlices and as Endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as OldPort, EndpointSubset, Endpoints, ObjectReference, Pod,
    Service, ServicePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::objects::{is_ready, owner_reference, selects_pairs, short_hash};
use crate::scheduler::snapshot::finished;

/// Label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints per slice (kube-controller-manager's `--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;

/// What to write.
#[derive(Debug, Default)]
pub struct Plan {
    /// Slices to make or to replace, by name.
    pub put: Vec<EndpointSlice>,
    /// Names of slices to remove.
    pub delete: Vec<String>,
    /// The Endpoints object to put, where it differs.
    pub endpoints: Option<Endpoints>,
}

/// Whether this controller looks after the slice.
pub fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels
        .and_then(|l| l.get(MANAGED_BY))
        .is_some_and(|m| m == MANAGER)
}

/// Compares what the Service's pods call for with the slices and Endpoints that exist.
pub fn plan(
    service: &Service,
    pods: &[Pod],
    slices: &[EndpointSlice],
    endpoints: Option<&Endpoints>,
) -> Plan {
    let mut plan = Plan::default();
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.clone().unwrap_or_default();
    // Without a selector the endpoints are the user's own.
    if selector.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return plan;
    }
    let chosen: Vec<&Pod> = pods
        .iter()
        .filter(|pod| selects_pairs(&selector, pod.metadata.labels.as_ref()))
        .filter(|pod| !finished(pod) && ip_of(pod).is_some())
        .collect();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let wanted = wanted_slices(service, &spec.ports.unwrap_or_default(), &chosen, publish);
    let ours: BTreeMap<&str, &EndpointSlice> = slices
        .iter()
        .filter(|slice| is_ours(slice))
        .filter_map(|slice| Some((slice.metadata.name.as_deref()?, slice)))
        .collect();
    let names: BTreeSet<&str> = wanted
        .iter()
        .filter_map(|s| s.metadata.name.as_deref())
        .collect();
    let gone = ours.keys().filter(|name| !names.contains(**name));
    plan.delete = gone.map(|name| (*name).to_owned()).collect();
    let old = wanted_endpoints(service, &wanted);
    plan.put = wanted
        .iter()
        .filter(|slice| {
            let stored = slice
                .metadata
                .name
                .as_deref()
                .and_then(|name| ours.get(name));
            stored.is_none_or(|stored| !same(stored, slice))
        })
        .cloned()
        .collect();
    let unchanged = endpoints.is_some_and(|stored| {
        stored.subsets.as_deref().unwrap_or_default() == old.subsets.as_deref().unwrap_or_default()
    });
    plan.endpoints = (!unchanged).then_some(old);
    plan
}

fn same(stored: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    stored.endpoints == wanted.endpoints
        && stored.ports == wanted.ports
        && stored.address_type == wanted.address_type
        && stored.metadata.labels == wanted.metadata.labels
}

/// The pod's first address.
pub fn ip_of(pod: &Pod) -> Option<IpAddr> {
    let ip = pod.status.as_ref()?.pod_ip.as_deref()?;
    ip.parse().ok()
}

/// One slice per address family and set of resolved ports, each of at most [`PER_SLICE`] endpoints.
fn wanted_slices(
    service: &Service,
    ports: &[ServicePort],
    pods: &[&Pod],
    publish: bool,
) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(bool, String), (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for pod in pods {
        let Some(ip) = ip_of(pod) else { continue };
        let resolved: Vec<EndpointPort> =
            ports.iter().filter_map(|port| resolve(port, pod)).collect();
        let key = serde_json::to_string(&resolved).expect("ports are plain data");
        let group = groups.entry((ip.is_ipv6(), key)).or_default();
        group.0 = resolved;
        group.1.push(endpoint(service, pod, ip, publish));
    }
    if groups.is_empty() {
        // An empty slice tells watchers that there is nobody, rather than nothing known.
        groups.insert((false, String::new()), Default::default());
    }
    let mut slices = Vec::new();
    for ((v6, key), (ports, mut endpoints)) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let chunks: Vec<&[Endpoint]> = if endpoints.is_empty() {
            vec![&[]]
        } else {
            endpoints.chunks(PER_SLICE).collect()
        };
        for (index, chunk) in chunks.into_iter().enumerate() {
            slices.push(slice(service, v6, &ports, chunk, &format!("{key}{index}")));
        }
    }
    slices
}

/// The name depends on the ports alone, so that a slice keeps its name while pods come and go.
fn slice(
    service: &Service,
    v6: bool,
    ports: &[EndpointPort],
    endpoints: &[Endpoint],
    key: &str,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let family = if v6 { "IPv6" } else { "IPv4" };
    // An empty slice and the first one that is not have the same name.
    let key = if ports.is_empty() && endpoints.is_empty() {
        ""
    } else {
        key
    };
    let hash = short_hash(&format!("{family}{key}"));
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let headless = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None");
    if headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner_reference("v1", "Service", &service.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints.to_vec()),
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
    }
}

fn endpoint(service: &Service, pod: &Pod, ip: IpAddr, publish: bool) -> Endpoint {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let spec = pod.spec.as_ref();
    let named = spec.and_then(|s| s.subdomain.as_ref()) == service.metadata.name.as_ref();
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(publish || serving),
            terminating: Some(terminating),
        }),
        hostname: spec.and_then(|s| s.hostname.clone()).filter(|_| named),
        node_name: spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The port of this pod behind a port of the Service; a named target that the pod lacks is left out.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol),
        app_protocol: port.app_protocol.clone(),
    })
}

/// The number of a pod's port with this name.
pub fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| crate::resources::is_sidecar(c));
    let mut ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .find(|p| {
            p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|p| p.container_port)
}

fn wanted_endpoints(service: &Service, slices: &[EndpointSlice]) -> Endpoints {
    let mut subsets = Vec::new();
    for slice in slices {
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let address = EndpointAddress {
                ip: endpoint.addresses.first().cloned().unwrap_or_default(),
                hostname: endpoint.hostname.clone(),
                node_name: endpoint.node_name.clone(),
                target_ref: endpoint.target_ref.clone(),
            };
            match (conditions.ready, conditions.terminating) {
                (Some(true), _) => ready.push(address),
                (_, Some(true)) => {}
                _ => waiting.push(address),
            }
        }
        if ready.is_empty() && waiting.is_empty() {
            continue;
        }
        let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
        let ports = slice.ports.iter().flatten().map(|p| OldPort {
            name: p.name.clone().filter(|n| !n.is_empty()),
            port: p.port.unwrap_or(0),
            protocol: p.protocol.clone(),
            app_protocol: p.app_protocol.clone(),
        });
        let ports: Vec<OldPort> = ports.collect();
        subsets.push(EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(waiting),
            ports: (!ports.is_empty()).then_some(ports),
        });
    }
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: service.metadata.labels.clone(),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "s-1"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
        }))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}
        }))
        .unwrap()
    }

    #[test]
    fn ready_pods_become_endpoints_with_resolved_ports() {
        let pods = [pod("a", "10.0.0.1", "True"), pod("b", "10.0.0.2", "False")];
        let plan = plan(&service(), &pods, &[], None);
        let slice = &plan.put[0];
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        let ready: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| e.conditions.as_ref().unwrap().ready)
            .collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        let subsets = plan.endpoints.unwrap().subsets.unwrap();
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(
            subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip,
            "10.0.0.2"
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_changed_and_empty_slices_are_replaced() {
        let empty = plan(&service(), &[], &[], None);
        assert_eq!(empty.put.len(), 1);
        let pods = [pod("a", "10.0.0.1", "True")];
        let first = plan(&service(), &pods, &empty.put, empty.endpoints.as_ref());
        assert_eq!(first.delete.len(), 1);
        let again = plan(&service(), &pods, &first.put, first.endpoints.as_ref());
        assert!(again.put.is_empty() && again.delete.is_empty() && again.endpoints.is_none());
    }
}
