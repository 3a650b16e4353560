//! The faults of a pod's or a template's spec.

use serde_json::{Value, json};

use super::{containers, volumes};
use crate::api::validate::{Faults, entries, items, meta, names, text};

/// Faults of a pod template: metadata and spec.
pub fn template_faults(template: &Value, path: &str, faults: &mut Faults) {
    template_with(template, &[], path, faults);
}

/// The same where volumes of these names come from elsewhere (a StatefulSet's claims).
pub fn template_with(template: &Value, claims: &[&str], path: &str, faults: &mut Faults) {
    let meta_path = format!("{path}.metadata");
    meta::labels(
        &template["metadata"]["labels"],
        &format!("{meta_path}.labels"),
        faults,
    );
    meta::annotations(
        &template["metadata"]["annotations"],
        &format!("{meta_path}.annotations"),
        faults,
    );
    spec_with(&template["spec"], claims, &format!("{path}.spec"), faults);
    if !items(&template["spec"]["ephemeralContainers"])
        .collect::<Vec<_>>()
        .is_empty()
    {
        faults.forbidden(
            format!("{path}.spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Faults of a pod's spec.
pub fn spec(spec: &Value, path: &str, faults: &mut Faults) {
    spec_with(spec, &[], path, faults);
}

fn spec_with(spec: &Value, claims: &[&str], path: &str, faults: &mut Faults) {
    let mut volumes = volumes::check(&spec["volumes"], &format!("{path}.volumes"), faults);
    volumes.extend(claims);
    containers::check(spec, path, &volumes, faults);
    policies(spec, path, faults);
    for (key, value) in entries(&spec["nodeSelector"]) {
        let one = json!({key: value});
        meta::labels(&one, &format!("{path}.nodeSelector"), faults);
    }
    for (i, t) in items(&spec["tolerations"]) {
        toleration(t, &format!("{path}.tolerations[{i}]"), faults);
    }
    for field in ["hostname", "subdomain"] {
        let value = text(spec, field);
        if !value.is_empty() {
            for w in names::label(value) {
                faults.invalid_str(format!("{path}.{field}"), value, w);
            }
        }
    }
    for field in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            for w in names::subdomain(value) {
                faults.invalid_str(format!("{path}.{field}"), value, w);
            }
        }
    }
    security(
        &spec["securityContext"],
        &format!("{path}.securityContext"),
        faults,
    );
    dns(spec, path, faults);
    for (i, alias) in items(&spec["hostAliases"]) {
        let ip = text(alias, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            faults.invalid_str(format!("{path}.hostAliases[{i}].ip"), ip, detail);
        }
    }
}

fn policies(spec: &Value, path: &str, faults: &mut Faults) {
    let restart = text(spec, "restartPolicy");
    if restart.is_empty() {
        faults.required(format!("{path}.restartPolicy"), "");
    }
    let restart = &spec["restartPolicy"];
    faults.one_of(
        &format!("{path}.restartPolicy"),
        restart,
        &["Always", "OnFailure", "Never"],
    );
    let known = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    faults.one_of(&format!("{path}.dnsPolicy"), &spec["dnsPolicy"], &known);
    let known = ["PreemptLowerPriority", "Never"];
    faults.one_of(
        &format!("{path}.preemptionPolicy"),
        &spec["preemptionPolicy"],
        &known,
    );
    faults.not_negative(
        &format!("{path}.terminationGracePeriodSeconds"),
        &spec["terminationGracePeriodSeconds"],
    );
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline
        .as_i64()
        .is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        faults.invalid(format!("{path}.activeDeadlineSeconds"), deadline, detail);
    }
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.invalid(
            format!("{path}.shareProcessNamespace"),
            &json!(true),
            detail,
        );
    }
}

/// A toleration of a pod or of a class of pods.
pub fn toleration(t: &Value, path: &str, faults: &mut Faults) {
    let (key, operator, effect) = (text(t, "key"), text(t, "operator"), text(t, "effect"));
    if !key.is_empty() {
        for w in names::qualified(key) {
            faults.invalid_str(format!("{path}.key"), key, w);
        }
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.invalid_str(format!("{path}.operator"), operator, detail);
    }
    if !t["tolerationSeconds"].is_null() && effect != "NoExecute" {
        faults.invalid_str(
            format!("{path}.effect"),
            effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    if operator == "Exists" && !text(t, "value").is_empty() {
        faults.invalid(
            format!("{path}.operator"),
            t,
            "value must be empty when `operator` is 'Exists'",
        );
    }
    faults.one_of(
        &format!("{path}.operator"),
        &t["operator"],
        &["Equal", "Exists"],
    );
    faults.one_of(
        &format!("{path}.effect"),
        &t["effect"],
        &["NoSchedule", "PreferNoSchedule", "NoExecute"],
    );
}

/// User and group ids of a pod's or a container's security context.
pub(super) fn security(context: &Value, path: &str, faults: &mut Faults) {
    let id = |value: &Value, at: String, faults: &mut Faults| {
        if value
            .as_i64()
            .is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n))
        {
            faults.invalid(at, value, "must be between 0 and 2147483647, inclusive");
        }
    };
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&context[field], format!("{path}.{field}"), faults);
    }
    for (i, group) in items(&context["supplementalGroups"]) {
        id(group, format!("{path}.supplementalGroups[{i}]"), faults);
    }
    for (i, sysctl) in items(&context["sysctls"]) {
        if text(sysctl, "name").is_empty() {
            faults.required(format!("{path}.sysctls[{i}].name"), "");
        }
    }
}

fn dns(spec: &Value, path: &str, faults: &mut Faults) {
    let config = &spec["dnsConfig"];
    let servers = config["nameservers"].as_array().map_or(0, Vec::len);
    if text(spec, "dnsPolicy") == "None" && servers == 0 {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        faults.required(format!("{path}.dnsConfig.nameservers"), detail);
    }
    if servers > 3 {
        let detail = "must not have more than 3 nameservers";
        faults.invalid(
            format!("{path}.dnsConfig.nameservers"),
            &config["nameservers"],
            detail,
        );
    }
    for (i, server) in items(&config["nameservers"]) {
        let server = server.as_str().unwrap_or_default();
        if server.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            faults.invalid_str(format!("{path}.dnsConfig.nameservers[{i}]"), server, detail);
        }
    }
}
