//! ResourceQuota: what all objects of a namespace may take together.
//!
//! What is in use is counted from the objects themselves at each request, under a lock around the
//! write: nothing has to be repaired after a crash, and two requests never both take the last place.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Plugin, Request};
use crate::api::kinds;
use crate::api::resource::Res;
use crate::api::status::{Result, Status};
use crate::api::validate::{entries, items, text};
use crate::quantity::{format_nano, parse_nano};
use crate::resources::{Resources, pod_limits, pod_requests, qos_class};
use crate::store::Selector;

pub(super) const PLUGIN: Plugin = Plugin {
    name: "ResourceQuota",
    check,
    ..Plugin::BASE
};

const NANO: i128 = 1_000_000_000;
/// `gold.storageclass.storage.k8s.io/requests.storage`.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// The kind whose objects take from a quota of this name.
pub(crate) fn source(name: &str) -> Option<Res> {
    if let Some(kind) = name.strip_prefix("count/") {
        return kinds::ALL.iter().copied().find(|r| r.qualified() == kind);
    }
    let claims = name.contains(OF_CLASS) || name == "requests.storage";
    let plural = match name {
        "services" | "services.nodeports" | "services.loadbalancers" => "services",
        "configmaps"
        | "secrets"
        | "replicationcontrollers"
        | "resourcequotas"
        | "persistentvolumeclaims" => name,
        _ if claims => "persistentvolumeclaims",
        _ => "pods",
    };
    kinds::find("", "v1", plural)
}

/// How much of `name` the object takes, in billionths.
pub(crate) fn charge(res: Res, object: &Value, name: &str) -> i128 {
    if name.starts_with("count/") {
        return NANO;
    }
    match res.plural {
        "pods" => pod(object, name),
        "services" => service(&object["spec"], name) * NANO,
        "persistentvolumeclaims" => claim(&object["spec"], name),
        _ => NANO,
    }
}

fn pod(pod: &Value, name: &str) -> i128 {
    if matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let Ok(spec) = PodSpec::deserialize(&pod["spec"]) else {
        return 0;
    };
    let (of, what): (Resources, &str) = match name.split_once('.') {
        Some(("limits", what)) => (pod_limits(&spec), what),
        Some(("requests", what)) => (pod_requests(&spec), what),
        _ if name == "pods" => return NANO,
        _ => (pod_requests(&spec), name),
    };
    match what {
        "cpu" => i128::from(of.milli_cpu) * (NANO / 1000),
        "memory" => i128::from(of.memory) * NANO,
        "ephemeral-storage" => i128::from(of.storage) * NANO,
        other => i128::from(of.other.get(other).copied().unwrap_or(0)) * NANO,
    }
}

fn service(spec: &Value, name: &str) -> i128 {
    let kind = text(spec, "type");
    let balanced = kind == "LoadBalancer";
    let ports = kind == "NodePort" || (balanced && spec["allocateLoadBalancerNodePorts"] != false);
    match name {
        "services.nodeports" if ports => items(&spec["ports"]).count() as i128,
        "services.nodeports" => 0,
        "services.loadbalancers" => i128::from(balanced),
        _ => 1,
    }
}

fn claim(spec: &Value, name: &str) -> i128 {
    let what = match name.split_once(OF_CLASS) {
        Some((class, _)) if class != text(spec, "storageClassName") => return 0,
        Some((_, what)) => what,
        None => name,
    };
    if what == "persistentvolumeclaims" {
        return NANO;
    }
    parse_nano(text(&spec["resources"]["requests"], "storage")).unwrap_or(0)
}

/// Whether the quota's scopes take in the object; only pods have scopes.
pub(crate) fn covers(quota: &Value, res: Res, object: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = items(&spec["scopes"])
        .map(|(_, s)| (s.as_str().unwrap_or_default(), "Exists", &Value::Null));
    let expressions = items(&spec["scopeSelector"]["matchExpressions"])
        .map(|(_, e)| (text(e, "scopeName"), text(e, "operator"), &e["values"]));
    let mut all = plain.chain(expressions).peekable();
    if all.peek().is_none() {
        return true;
    }
    *res == kinds::POD
        && all.all(|(scope, operator, values)| in_scope(object, scope, operator, values))
}

fn in_scope(pod: &Value, scope: &str, operator: &str, values: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some();
    let best_effort = || PodSpec::deserialize(spec).is_ok_and(|s| qos_class(&s) == "BestEffort");
    let affine = ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let terms = [
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        ];
        terms.iter().any(|t| {
            items(&spec["affinity"][side][t]).any(|(_, term)| {
                let term = if term["podAffinityTerm"].is_object() {
                    &term["podAffinityTerm"]
                } else {
                    term
                };
                items(&term["namespaces"]).next().is_some() || term["namespaceSelector"].is_object()
            })
        })
    });
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "CrossNamespacePodAffinity" => affine,
        "PriorityClass" => {
            let class = text(spec, "priorityClassName");
            let listed = items(values).any(|(_, v)| v == class);
            match operator {
                "In" => listed,
                "NotIn" => !listed,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

fn check(request: &Request<'_>, object: &Value) -> Result<()> {
    if !request.res.namespaced {
        return Ok(());
    }
    let quotas = request
        .api
        .list(&kinds::RESOURCE_QUOTA, request.ns, &Selector::all())
        .items;
    for quota in quotas
        .iter()
        .filter(|q| covers(q.value(), request.res, object))
    {
        if request.old.is_none() {
            specified(request, quota.name(), quota.at("/spec/hard"), object)?;
        }
        fits(request, quota.value(), object)?;
    }
    Ok(())
}

/// A quota of a compute resource wants every container to say how much it takes.
fn specified(request: &Request<'_>, quota: &str, hard: &Value, pod: &Value) -> Result<()> {
    if *request.res != kinds::POD {
        return Ok(());
    }
    let missing = unsaid(hard, pod);
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("failed quota: {quota}: must specify {}", missing.join("; "));
    Err(refusal(request, pod, &why))
}

/// What containers do not say, each resource with their names, in order.
fn unsaid(hard: &Value, pod: &Value) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    for (name, _) in entries(hard) {
        let (field, what) = match name.split_once('.') {
            Some((side @ ("limits" | "requests"), what)) => (side, what),
            _ => ("requests", name.as_str()),
        };
        if !matches!(what, "cpu" | "memory") {
            continue;
        }
        let without = items(&pod["spec"]["containers"])
            .chain(items(&pod["spec"]["initContainers"]))
            .filter(|(_, c)| c["resources"][field][what].is_null())
            .map(|(_, c)| text(c, "name"));
        let mut without: Vec<&str> = without.collect();
        without.sort_unstable();
        if !without.is_empty() {
            missing.push(format!("{name} for: {}", without.join(",")));
        }
    }
    missing.sort_unstable();
    missing
}

fn refusal(request: &Request<'_>, object: &Value, why: &str) -> Status {
    Status::forbidden(request.res, text(&object["metadata"], "name"), why)
}

fn fits(request: &Request<'_>, quota: &Value, object: &Value) -> Result<()> {
    let mut over: BTreeMap<&str, [i128; 3]> = BTreeMap::new();
    for (name, hard) in entries(&quota["spec"]["hard"]) {
        if source(name).is_none_or(|r| *r != *request.res) {
            continue;
        }
        let had = request.old.map_or(0, |old| charge(request.res, old, name));
        let more = charge(request.res, object, name) - had;
        let hard = hard.as_str().and_then(parse_nano).unwrap_or(0);
        if more <= 0 {
            continue;
        }
        let used = used(
            quota,
            request.res,
            name,
            &request
                .api
                .list(request.res, request.ns, &Selector::all())
                .items,
        );
        if used + more > hard {
            over.insert(name, [more, used, hard]);
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    let list = |index: usize| {
        let all = over
            .iter()
            .map(|(name, n)| format!("{name}={}", format_nano(n[index], name)));
        all.collect::<Vec<_>>().join(",")
    };
    let why = format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        text(&quota["metadata"], "name"),
        list(0),
        list(1),
        list(2)
    );
    Err(refusal(request, object, &why))
}

/// What the objects of a kind take of `name` together, in billionths.
pub(crate) fn used(
    quota: &Value,
    res: Res,
    name: &str,
    objects: &[std::sync::Arc<crate::store::Object>],
) -> i128 {
    let counted = objects.iter().filter(|o| covers(quota, res, o.value()));
    counted.map(|o| charge(res, o.value(), name)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_take_what_their_kind_takes() {
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}}}]}});
        let amount = |name: &str| format_nano(charge(&kinds::POD, &pod, name), name);
        assert_eq!(amount("pods"), "1");
        assert_eq!(amount("cpu"), "250m");
        assert_eq!(amount("requests.memory"), "1Gi");
        assert_eq!(amount("limits.cpu"), "0");
        let mut ended = pod;
        ended["status"] = json!({"phase": "Failed"});
        assert_eq!(charge(&kinds::POD, &ended, "pods"), 0);
        assert_eq!(charge(&kinds::POD, &ended, "count/pods"), NANO);
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            charge(&kinds::SERVICE, &service, "services.nodeports"),
            2 * NANO
        );
        let claim =
            json!({"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}});
        let of = |name: &str| super::claim(&claim, name) / NANO;
        assert_eq!(of("requests.storage"), 1 << 30);
        assert_eq!(
            of("gold.storageclass.storage.k8s.io/requests.storage"),
            1 << 30
        );
        assert_eq!(
            of("tin.storageclass.storage.k8s.io/persistentvolumeclaims"),
            0
        );
    }

    #[test]
    fn what_containers_do_not_say_is_told_in_order() {
        let all = json!({"requests": {"cpu": "1", "memory": "1"}});
        let pod = json!({"spec": {
            "containers": [{"name": "z"}, {"name": "b", "resources": all}, {"name": "a"}],
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}]}});
        let hard = json!({"requests.memory": "1Gi", "cpu": "1", "pods": "5"});
        assert_eq!(
            unsaid(&hard, &pod),
            ["cpu for: a,z", "requests.memory for: a,i,z"]
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let plain = json!({"spec": {"containers": [{"name": "a"}]}});
        let timed = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        for (scope, is_plain, is_timed) in [
            ("Terminating", false, true),
            ("NotTerminating", true, false),
            ("BestEffort", true, false),
            ("NotBestEffort", false, true),
        ] {
            assert_eq!(
                covers(&quota(scope), &kinds::POD, &plain),
                is_plain,
                "{scope}"
            );
            assert_eq!(
                covers(&quota(scope), &kinds::POD, &timed),
                is_timed,
                "{scope}"
            );
        }
        assert!(!covers(&quota("BestEffort"), &kinds::SERVICE, &json!({})));
    }
}
