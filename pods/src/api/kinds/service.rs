//! `Service`.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::podspec::{default, each, object};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, meta, names, text};
use crate::store::{Object, Selector};

/// `v1` `Service`.
pub static SERVICE: Resource = Resource {
    plural: "services",
    singular: "service",
    kind: "Service",
    short_names: &["svc"],
    categories: &["all"],
    has_status: true,
    returns_deleted: true,
    fields: &["spec.clusterIP", "spec.type"],
    columns: &[
        Column::text("Name"),
        Column::text("Type"),
        Column::text("Cluster-IP"),
        Column::text("External-IP"),
        Column::text("Port(s)"),
        Column::text("Age"),
        Column::wide("Selector"),
    ],
    row,
    name_rule: names::label_1035,
    prepare,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn prepare(service: &mut Value) {
    service["status"] = json!({"loadBalancer": {}});
}

fn defaults(service: &mut Value) {
    let spec = object(service, "spec");
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"]["clientIP"].is_null()
    {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
    }
    let kind = text(spec, "type").to_owned();
    for port in each(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        let target = &port["targetPort"];
        if target.is_null() || *target == json!(0) || *target == json!("") {
            port["targetPort"] = number;
        }
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", "SingleStack");
    }
}

fn validate(service: &Value, faults: &mut Faults) {
    let spec = &service["spec"];
    let kind = text(spec, "type");
    faults.one_of("spec.type", &spec["type"], TYPES);
    faults.one_of(
        "spec.sessionAffinity",
        &spec["sessionAffinity"],
        &["ClientIP", "None"],
    );
    for policy in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        faults.one_of(
            &format!("spec.{policy}"),
            &spec[policy],
            &["Cluster", "Local"],
        );
    }
    meta::labels(&spec["selector"], "spec.selector", faults);
    let headless = text(spec, "clusterIP") == "None";
    let ports = spec["ports"].as_array().map_or(0, Vec::len);
    if kind == "ExternalName" {
        let name = text(spec, "externalName");
        if name.is_empty() {
            faults.required("spec.externalName", "");
        }
        if !text(spec, "clusterIP").is_empty() {
            faults.forbidden(
                "spec.clusterIPs[0]",
                "may not be set when `type` is 'ExternalName'",
            );
        }
    } else if ports == 0 && !headless {
        faults.required("spec.ports", "");
    }
    if kind == "LoadBalancer" && headless {
        faults.invalid(
            "spec.clusterIPs[0]",
            &json!("None"),
            "may not be set to 'None' for LoadBalancer services",
        );
    }
    let mut seen = (HashSet::new(), HashSet::new());
    for (i, port) in items(&spec["ports"]) {
        check_port(
            port,
            &format!("spec.ports[{i}]"),
            ports > 1,
            &mut seen,
            faults,
        );
    }
}

type Seen<'a> = (HashSet<&'a str>, HashSet<(String, i64)>);

fn check_port<'a>(
    port: &'a Value,
    path: &str,
    many: bool,
    seen: &mut Seen<'a>,
    faults: &mut Faults,
) {
    const RANGE: &str = "must be between 1 and 65535, inclusive";
    let name = text(port, "name");
    if name.is_empty() {
        if many {
            faults.required(format!("{path}.name"), "");
        }
    } else {
        for w in names::label(name) {
            faults.invalid_str(format!("{path}.name"), name, w);
        }
        if !seen.0.insert(name) {
            faults.duplicate(format!("{path}.name"), &port["name"]);
        }
    }
    let in_range = |v: &Value| v.as_i64().is_some_and(|n| (1..=65535).contains(&n));
    if !in_range(&port["port"]) {
        let zero = json!(0);
        let value = if port["port"].is_null() {
            &zero
        } else {
            &port["port"]
        };
        faults.invalid(format!("{path}.port"), value, RANGE);
    }
    let key = (
        text(port, "protocol").to_owned(),
        port["port"].as_i64().unwrap_or(0),
    );
    if !seen.1.insert(key) {
        faults.duplicate(
            path,
            &json!({"port": port["port"], "protocol": port["protocol"]}),
        );
    }
    faults.one_of(
        &format!("{path}.protocol"),
        &port["protocol"],
        &["SCTP", "TCP", "UDP"],
    );
    match &port["targetPort"] {
        Value::String(name) => {
            for w in names::port(name) {
                faults.invalid_str(format!("{path}.targetPort"), name, w);
            }
        }
        other if !other.is_null() && !in_range(other) => {
            faults.invalid(format!("{path}.targetPort"), other, RANGE);
        }
        _ => {}
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    let (was, is) = (
        text(&old["spec"], "clusterIP"),
        text(&new["spec"], "clusterIP"),
    );
    let released = text(&new["spec"], "type") == "ExternalName"
        || text(&old["spec"], "type") == "ExternalName";
    if !was.is_empty() && was != is && !released {
        faults.invalid(
            "spec.clusterIPs[0]",
            &new["spec"]["clusterIPs"],
            "may not change once set",
        );
    }
}

fn row(o: &Object) -> Vec<Value> {
    let spec = o.at("/spec");
    let or_none = |v: &str| {
        if v.is_empty() {
            "<none>".to_owned()
        } else {
            v.to_owned()
        }
    };
    let ports = items(&spec["ports"]).map(|(_, p)| {
        let (port, protocol) = (p["port"].as_i64().unwrap_or(0), text(p, "protocol"));
        match p["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{port}:{node}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        }
    });
    let ports: Vec<String> = ports.collect();
    let selector = Selector::from_map(&spec["selector"]).map(|s| s.label_string());
    vec![
        json!(o.name()),
        json!(text(spec, "type")),
        json!(or_none(text(spec, "clusterIP"))),
        json!(external(o)),
        json!(or_none(&ports.join(","))),
        json!(age(o.at("/metadata/creationTimestamp"))),
        json!(or_none(&selector.unwrap_or_default())),
    ]
}

fn external(o: &Object) -> String {
    let spec = o.at("/spec");
    let mut all: Vec<&str> = items(&spec["externalIPs"])
        .filter_map(|(_, ip)| ip.as_str())
        .collect();
    match text(spec, "type") {
        "ExternalName" => return text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let given = items(o.at("/status/loadBalancer/ingress")).map(|(_, i)| {
                if text(i, "ip").is_empty() {
                    text(i, "hostname")
                } else {
                    text(i, "ip")
                }
            });
            all.extend(given);
            if all.is_empty() {
                return "<pending>".into();
            }
        }
        _ => {}
    }
    if all.is_empty() {
        "<none>".into()
    } else {
        all.join(",")
    }
}
