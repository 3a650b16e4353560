//! `RuntimeClass`: what a pod costs beside its containers, and where it can run, from its class.

use serde_json::{Value, json};

use super::{Plugin, Request};
use crate::api::kinds;
use crate::api::status::{Result, Status};
use crate::api::validate::{entries, items, text};

pub(super) const PLUGIN: Plugin = Plugin {
    name: "RuntimeClass",
    mutate,
    ..Plugin::BASE
};

fn mutate(request: &Request<'_>, pod: &mut Value) -> Result<()> {
    if *request.res != kinds::POD || request.old.is_some() {
        return Ok(());
    }
    let refused = |why: &str, pod: &Value| {
        Status::forbidden(&kinds::POD, text(&pod["metadata"], "name"), why)
    };
    let named = text(&pod["spec"], "runtimeClassName").to_owned();
    let class = if named.is_empty() {
        None
    } else {
        let found = request.api.get(&kinds::RUNTIME_CLASS, "", &named);
        let missing = format!("pod rejected: RuntimeClass {named:?} not found");
        Some(found.map_err(|_| refused(&missing, pod))?)
    };
    let class = class.as_ref().map_or(&Value::Null, |c| c.value());
    let made = overhead(class, &mut pod["spec"]).and_then(|()| place(class, &mut pod["spec"]));
    made.map_err(|why| refused(&why, pod))
}

/// Whether two lists of amounts say the same.
fn same(one: &Value, other: &Value) -> bool {
    let read = |list: &Value| -> Vec<(String, Option<i128>)> {
        let amount = |v: &Value| v.as_str().and_then(crate::quantity::parse_nano);
        entries(list)
            .map(|(name, v)| (name.clone(), amount(v)))
            .collect()
    };
    let (mut one, mut other) = (read(one), read(other));
    one.sort();
    other.sort();
    one == other
}

/// The class' overhead is the pod's.
fn overhead(class: &Value, spec: &mut Value) -> std::result::Result<(), String> {
    let fixed = &class["overhead"]["podFixed"];
    let own = &spec["overhead"];
    let none = |list: &Value| entries(list).next().is_none();
    if none(fixed) && none(own) {
        return Ok(());
    }
    if none(fixed) {
        let why =
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(why.into());
    }
    if !none(own) && !same(fixed, own) {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(why.into());
    }
    spec["overhead"] = fixed.clone();
    Ok(())
}

/// The pod goes where the class can run.
fn place(class: &Value, spec: &mut Value) -> std::result::Result<(), String> {
    let scheduling = &class["scheduling"];
    for (label, value) in entries(&scheduling["nodeSelector"]) {
        let own = spec["nodeSelector"].get(label);
        if own.is_some_and(|own| own != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {}; pod.spec.nodeSelector[{label}] = {}",
                value.as_str().unwrap_or_default(),
                text(&spec["nodeSelector"], label)
            ));
        }
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        spec["nodeSelector"][label] = value.clone();
    }
    for (_, toleration) in items(&scheduling["tolerations"]) {
        let all = &mut spec["tolerations"];
        if !all.is_array() {
            *all = json!([]);
        }
        if let Some(all) = all.as_array_mut().filter(|all| !all.contains(toleration)) {
            all.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_what_its_class_costs_and_where_it_runs() {
        let class = json!({"overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"kind": "vm"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
        let mut spec = json!({"nodeSelector": {"own": "1"}, "tolerations": [{"key": "vm", "operator": "Exists"}]});
        overhead(&class, &mut spec).unwrap();
        place(&class, &mut spec).unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"own": "1", "kind": "vm"}));
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1);
        spec["overhead"] = json!({"cpu": "0.25"});
        overhead(&class, &mut spec).unwrap();
        spec["overhead"] = json!({"cpu": "1"});
        assert!(
            overhead(&class, &mut spec)
                .unwrap_err()
                .contains("doesn't match")
        );
        assert!(
            overhead(&Value::Null, &mut spec)
                .unwrap_err()
                .contains("without")
        );
        spec["nodeSelector"]["kind"] = json!("other");
        assert!(
            place(&class, &mut spec)
                .unwrap_err()
                .contains("nodeSelector[kind] = vm")
        );
    }
}
