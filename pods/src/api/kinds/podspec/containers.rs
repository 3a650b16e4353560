//! The faults of containers.

use std::collections::HashSet;

use serde_json::Value;

use super::{probes, validate, volumes};
use crate::api::validate::{Faults, entries, items, names, text};
use crate::quantity;

const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// Checks all containers of a spec.
pub(super) fn check(spec: &Value, path: &str, volumes: &HashSet<&str>, faults: &mut Faults) {
    let mut seen = HashSet::new();
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        faults.required(format!("{path}.containers"), "");
    }
    let mut host_ports = HashSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, c) in items(&spec[list]) {
            let path = format!("{path}.{list}[{i}]");
            let name = text(c, "name");
            if name.is_empty() {
                faults.required(format!("{path}.name"), "");
            } else {
                for w in names::label(name) {
                    faults.invalid_str(format!("{path}.name"), name, w);
                }
                if !seen.insert(name) {
                    faults.duplicate(format!("{path}.name"), &c["name"]);
                }
            }
            container(c, &path, faults);
            volumes::mounts(c, &path, volumes, faults);
            restarts(c, list, &path, faults);
            if list == "containers" {
                conflicts(c, &path, &mut host_ports, faults);
            }
        }
    }
}

fn container(c: &Value, path: &str, faults: &mut Faults) {
    let image = text(c, "image");
    if image.is_empty() {
        faults.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        faults.invalid_str(format!("{path}.image"), image, detail);
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    faults.one_of(
        &format!("{path}.imagePullPolicy"),
        &c["imagePullPolicy"],
        &policies,
    );
    let policies = ["File", "FallbackToLogsOnError"];
    faults.one_of(
        &format!("{path}.terminationMessagePolicy"),
        &c["terminationMessagePolicy"],
        &policies,
    );
    ports(c, path, faults);
    environment(c, path, faults);
    resources(&c["resources"], &format!("{path}.resources"), faults);
    validate::security(
        &c["securityContext"],
        &format!("{path}.securityContext"),
        faults,
    );
    probes::check(c, path, faults);
}

fn restarts(c: &Value, list: &str, path: &str, faults: &mut Faults) {
    let policy = text(c, "restartPolicy");
    let sidecar = list == "initContainers" && policy == "Always";
    if list == "initContainers" && !sidecar {
        for field in [
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            if !c[field].is_null() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                faults.forbidden(format!("{path}.{field}"), detail);
            }
        }
    }
    faults.one_of(
        &format!("{path}.restartPolicy"),
        &c["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
}

fn in_range(port: &Value) -> bool {
    port.as_i64().is_some_and(|n| (1..=65535).contains(&n))
}

fn ports(c: &Value, path: &str, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for (i, p) in items(&c["ports"]) {
        let path = format!("{path}.ports[{i}]");
        let name = text(p, "name");
        if !name.is_empty() {
            for w in names::port(name) {
                faults.invalid_str(format!("{path}.name"), name, w);
            }
            if !seen.insert(name) {
                faults.duplicate(format!("{path}.name"), &p["name"]);
            }
        }
        if p["containerPort"].as_i64().unwrap_or(0) == 0 {
            faults.required(format!("{path}.containerPort"), "");
        } else if !in_range(&p["containerPort"]) {
            faults.invalid(
                format!("{path}.containerPort"),
                &p["containerPort"],
                PORT_RANGE,
            );
        }
        if p["hostPort"].as_i64().unwrap_or(0) != 0 && !in_range(&p["hostPort"]) {
            faults.invalid(format!("{path}.hostPort"), &p["hostPort"], PORT_RANGE);
        }
        faults.one_of(
            &format!("{path}.protocol"),
            &p["protocol"],
            &["TCP", "UDP", "SCTP"],
        );
    }
}

fn conflicts(c: &Value, path: &str, seen: &mut HashSet<String>, faults: &mut Faults) {
    for (i, p) in items(&c["ports"]) {
        let port = p["hostPort"].as_i64().unwrap_or(0);
        let key = format!("{}/{}/{port}", text(p, "protocol"), text(p, "hostIP"));
        if port != 0 && !seen.insert(key.clone()) {
            faults.duplicate(format!("{path}.ports[{i}].hostPort"), &Value::String(key));
        }
    }
}

fn environment(c: &Value, path: &str, faults: &mut Faults) {
    for (i, e) in items(&c["env"]) {
        let path = format!("{path}.env[{i}]");
        let name = text(e, "name");
        if name.is_empty() {
            faults.required(format!("{path}.name"), "");
        } else {
            for w in names::env(name) {
                faults.invalid_str(format!("{path}.name"), name, w);
            }
        }
        let Some(from) = e["valueFrom"].as_object() else {
            continue;
        };
        let path = format!("{path}.valueFrom");
        if !text(e, "value").is_empty() {
            faults.invalid_str(&path, "", "may not be specified when `value` is not empty");
        }
        match from.len() {
            0 => faults.invalid_str(&path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"),
            1 => {}
            _ => faults.invalid_str(&path, "", "may not have more than one field specified at a time"),
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            for field in ["name", "key"] {
                if from.get(kind).is_some_and(|r| text(r, field).is_empty()) {
                    faults.required(format!("{path}.{kind}.{field}"), "");
                }
            }
        }
    }
    for (i, e) in items(&c["envFrom"]) {
        let path = format!("{path}.envFrom[{i}]");
        let named = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|k| !e[*k].is_null());
        match named.count() {
            0 => faults.invalid_str(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            1 => {}
            _ => faults.invalid_str(
                path,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn amount(v: &Value) -> Option<i128> {
    v.as_str().and_then(quantity::parse_nano)
}

fn resources(r: &Value, path: &str, faults: &mut Faults) {
    for part in ["limits", "requests"] {
        for (name, value) in entries(&r[part]) {
            let path = format!("{path}.{part}[{name}]");
            let standard = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if !standard && !name.contains('/') && !name.starts_with("hugepages-") {
                faults.invalid_str(&path, name, "must be a standard resource for containers");
            }
            match amount(value) {
                None => faults.invalid(path, value, "is not a quantity"),
                Some(n) if n < 0 => {
                    faults.invalid(path, value, "must be greater than or equal to 0");
                }
                Some(_) => {}
            }
        }
    }
    within_limits(r, path, faults);
    let named = |test: fn(&str) -> bool| {
        let parts = ["limits", "requests"].into_iter();
        parts
            .flat_map(|part| entries(&r[part]))
            .any(|(name, _)| test(name))
    };
    if named(|name| name.starts_with("hugepages-")) && !named(|n| matches!(n, "cpu" | "memory")) {
        faults.forbidden(path, "HugePages require cpu or memory");
    }
}

fn within_limits(r: &Value, path: &str, faults: &mut Faults) {
    for (name, value) in entries(&r["requests"]) {
        // Of these no more is given than there is.
        let counted = name.starts_with("hugepages-")
            || (name.contains('/') && !name.contains("kubernetes.io/"));
        let limit = &r["limits"][name];
        let most = limit.as_str().unwrap_or_default();
        let path_of = |part: &str| format!("{path}.{part}");
        match (amount(value), amount(limit)) {
            (Some(want), Some(limit)) if counted && want != limit => {
                let detail = format!("must be equal to {name} limit of {most}");
                faults.invalid(path_of("requests"), value, detail);
            }
            (Some(want), Some(limit)) if want > limit => {
                let detail = format!("must be less than or equal to {name} limit of {most}");
                faults.invalid(path_of("requests"), value, detail);
            }
            (Some(_), None) if counted => {
                let detail = "Limit must be set for non overcommitable resources";
                faults.required(path_of("limits"), detail);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_counted_is_asked_for_as_it_is_limited() {
        let said = |limits: Value, requests: Value| {
            let mut faults = Faults::default();
            let all = json!({"limits": limits, "requests": requests});
            resources(&all, "r", &mut faults);
            let causes = faults.into_causes().into_iter();
            let lines: Vec<String> = causes
                .map(|c| format!("{}: {}", c.field, c.message))
                .collect();
            lines.join("\n")
        };
        let pages = json!({"hugepages-2Mi": "4Mi", "memory": "1Mi"});
        assert_eq!(said(pages.clone(), pages.clone()), "");
        assert_eq!(
            said(
                json!({"hugepages-2Mi": "8Mi", "memory": "2Mi"}),
                pages.clone()
            ),
            "r.requests: Invalid value: \"4Mi\": must be equal to hugepages-2Mi limit of 8Mi"
        );
        assert_eq!(
            said(json!({}), pages),
            "r.limits: Required value: Limit must be set for non overcommitable resources"
        );
        assert_eq!(
            said(json!({"hugepages-2Mi": "4Mi"}), json!({})),
            "r: Forbidden: HugePages require cpu or memory"
        );
        assert_eq!(said(json!({}), json!({"cpu": "1", "memory": "1Mi"})), "");
    }
}
