//! `ephemeralcontainers` and `resize`: the two parts of a running pod that may change beside images.

use serde_json::{Value, json};

use super::kinds::podspec;
use super::validate::{Faults, items};

/// Whether a subresource is one of these.
pub(super) fn is_part(sub: &str) -> bool {
    matches!(sub, "ephemeralcontainers" | "resize")
}

/// The old pod with that part of the new one.
pub(super) fn take(sub: &str, was: &Value, new: &Value) -> Value {
    let mut out = was.clone();
    out["metadata"]["managedFields"] = new["metadata"]["managedFields"].clone();
    if out["metadata"]["managedFields"].is_null()
        && let Some(meta) = out["metadata"].as_object_mut()
    {
        meta.remove("managedFields");
    }
    if sub == "ephemeralcontainers" {
        let list = &new["spec"]["ephemeralContainers"];
        match (list.as_array(), out["spec"].as_object_mut()) {
            (Some(_), Some(spec)) => drop(spec.insert("ephemeralContainers".into(), list.clone())),
            (None, Some(spec)) => drop(spec.remove("ephemeralContainers")),
            _ => {}
        }
        return out;
    }
    for list in ["containers", "initContainers"] {
        for c in podspec::each(&mut out["spec"], list) {
            let found = items(&new["spec"][list]).find(|(_, n)| n["name"] == c["name"]);
            if let Some((_, n)) = found
                && !n["resources"].is_null()
            {
                c["resources"] = n["resources"].clone();
            }
        }
    }
    out
}

/// The faults of such a change.
pub(super) fn check(sub: &str, was: &Value, new: &Value, faults: &mut Faults) {
    if sub == "ephemeralcontainers" {
        ephemeral(&was["spec"], &new["spec"], faults);
    } else {
        resize(was, new, faults);
    }
}

/// Fields that mean nothing for a container that is there to look (EphemeralContainerCommon).
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
];

fn ephemeral(was: &Value, is: &Value, faults: &mut Faults) {
    for (_, old) in items(&was["ephemeralContainers"]) {
        let name = old["name"].as_str().unwrap_or_default();
        let now = items(&is["ephemeralContainers"]).find(|(_, n)| n["name"] == old["name"]);
        match now {
            None => faults.forbidden(
                "spec.ephemeralContainers",
                format!("existing ephemeral containers {name:?} may not be removed"),
            ),
            Some((_, now)) if now != old => faults.forbidden(
                "spec.ephemeralContainers",
                format!("existing ephemeral containers {name:?} may not be changed"),
            ),
            Some(_) => {}
        }
    }
    for (i, c) in items(&is["ephemeralContainers"]) {
        let path = format!("spec.ephemeralContainers[{i}]");
        for field in NOT_EPHEMERAL.iter().filter(|f| !c[**f].is_null()) {
            faults.forbidden(
                format!("{path}.{field}"),
                "cannot be set for an Ephemeral Container",
            );
        }
        if c["resources"].as_object().is_some_and(|r| !r.is_empty()) {
            faults.forbidden(
                format!("{path}.resources"),
                "cannot be set for an Ephemeral Container",
            );
        }
        let target = &c["targetContainerName"];
        let known = ["containers", "initContainers"];
        let found = known
            .iter()
            .any(|list| items(&is[*list]).any(|(_, c)| c["name"] == *target));
        if target.as_str().is_some_and(|t| !t.is_empty()) && !found {
            faults.not_found(
                format!("{path}.targetContainerName"),
                target.as_str().unwrap_or_default(),
            );
        }
    }
}

fn resize(was: &Value, new: &Value, faults: &mut Faults) {
    let class = |pod: &Value| {
        let spec = serde_json::from_value(pod["spec"].clone()).unwrap_or_default();
        crate::resources::qos_class(&spec).to_owned()
    };
    if class(was) != class(new) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        faults.invalid("spec", &json!(class(new)), detail);
    }
    for list in ["containers", "initContainers"] {
        let pairs = items(&was["spec"][list]).zip(items(&new["spec"][list]));
        for ((i, old), (_, now)) in pairs {
            if old["resources"] == now["resources"] {
                continue;
            }
            if list == "initContainers" && old["restartPolicy"] != "Always" {
                let path = format!("spec.initContainers[{i}].resources");
                faults.forbidden(
                    path,
                    "only sidecar containers of init containers can resize",
                );
                continue;
            }
            for part in ["limits", "requests"] {
                let names = |v: &Value| -> Vec<String> {
                    let all = v["resources"][part].as_object().into_iter().flatten();
                    all.map(|(k, _)| k.clone()).collect()
                };
                for name in names(old).into_iter().filter(|n| !names(now).contains(n)) {
                    let path = format!("spec.{list}[{i}].resources.{part}.{name}");
                    faults.forbidden(path, format!("resource {part} cannot be removed"));
                }
                for name in names(now) {
                    let same = old["resources"][part][&name] == now["resources"][part][&name];
                    if !same && name != "cpu" && name != "memory" {
                        let path = format!("spec.{list}[{i}].resources.{part}.{name}");
                        faults.forbidden(path, "only cpu and memory resources are mutable");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(sub: &str, was: &Value, new: &Value) -> Vec<String> {
        let mut faults = Faults::default();
        check(sub, was, &take(sub, was, new), &mut faults);
        let all = faults.into_causes().into_iter();
        all.map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn a_debugger_is_added_and_stays() {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
        let mut new = pod.clone();
        new["spec"]["ephemeralContainers"] =
            json!([{"name": "d", "image": "i", "targetContainerName": "a"}]);
        new["spec"]["containers"][0]["image"] = json!("other");
        let taken = take("ephemeralcontainers", &pod, &new);
        assert_eq!(taken["spec"]["containers"][0]["image"], "i");
        assert_eq!(taken["spec"]["ephemeralContainers"][0]["name"], "d");
        assert!(causes("ephemeralcontainers", &pod, &new).is_empty());
        assert_eq!(
            causes("ephemeralcontainers", &taken, &pod),
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be removed"
            ]
        );
        new["spec"]["ephemeralContainers"][0]["targetContainerName"] = json!("b");
        let said = causes("ephemeralcontainers", &pod, &new);
        assert_eq!(
            said,
            ["spec.ephemeralContainers[0].targetContainerName: Not found: \"b\""]
        );
    }

    #[test]
    fn a_resize_changes_cpu_and_memory_and_not_the_class() {
        let of = |limits: Value| {
            json!({"metadata": {}, "spec": {"containers": [{"name": "a",
            "resources": {"limits": limits, "requests": {"cpu": "100m"}}}]}})
        };
        let pod = of(json!({"cpu": "1"}));
        assert!(causes("resize", &pod, &of(json!({"cpu": "2"}))).is_empty());
        let said = causes("resize", &pod, &of(json!({})));
        assert!(
            said[0].ends_with("resource limits cannot be removed"),
            "{said:?}"
        );
        let mut other = of(json!({"cpu": "2"}));
        other["spec"]["containers"][0]["image"] = json!("x");
        assert!(take("resize", &pod, &other)["spec"]["containers"][0]["image"].is_null());
    }
}
