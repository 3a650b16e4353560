//! `Ingress`.

use serde_json::{Value, json};

use super::networkpolicy::is_address;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, names, text};
use crate::store::Object;

/// `networking.k8s.io/v1` `Ingress`.
pub static INGRESS: Resource = Resource {
    group: "networking.k8s.io",
    plural: "ingresses",
    singular: "ingress",
    kind: "Ingress",
    short_names: &["ing"],
    has_status: true,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("Class"),
        Column::text("Hosts"),
        Column::text("Address"),
        Column::text("Ports"),
        Column::text("Age"),
    ],
    row,
    prepare: |o| o["status"] = json!({"loadBalancer": {}}),
    validate,
    ..Resource::BASE
};

fn validate(ingress: &Value, faults: &mut Faults) {
    let spec = &ingress["spec"];
    let rules = items(&spec["rules"]).count();
    if rules == 0 && spec["defaultBackend"].is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        faults.invalid("spec", spec, detail);
    }
    if let Some(class) = spec["ingressClassName"].as_str() {
        for wrong in names::subdomain(class) {
            faults.invalid_str("spec.ingressClassName", class, wrong);
        }
    }
    if !spec["defaultBackend"].is_null() {
        check_backend(&spec["defaultBackend"], "spec.defaultBackend", faults);
    }
    for (i, tls) in items(&spec["tls"]) {
        let path = format!("spec.tls[{i}]");
        for (j, host) in items(&tls["hosts"]) {
            let host = host.as_str().unwrap_or_default();
            check_host(host, &format!("{path}.hosts[{j}]"), faults);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            for wrong in names::subdomain(secret) {
                faults.invalid_str(format!("{path}.secretName"), secret, wrong);
            }
        }
    }
    for (i, rule) in items(&spec["rules"]) {
        let path = format!("spec.rules[{i}]");
        let host = text(rule, "host");
        if !host.is_empty() {
            check_host(host, &format!("{path}.host"), faults);
        }
        if rule["http"].is_null() {
            continue;
        }
        let path = format!("{path}.http.paths");
        if items(&rule["http"]["paths"]).next().is_none() {
            faults.required(&path, "");
        }
        for (j, entry) in items(&rule["http"]["paths"]) {
            check_path(entry, &format!("{path}[{j}]"), faults);
        }
    }
}

fn check_host(host: &str, path: &str, faults: &mut Faults) {
    if is_address(host) {
        faults.invalid_str(path, host, "must be a DNS name, not an IP address");
        return;
    }
    for wrong in names::subdomain(host.strip_prefix("*.").unwrap_or(host)) {
        faults.invalid_str(path, host, wrong);
    }
}

fn check_path(entry: &Value, at: &str, faults: &mut Faults) {
    let path = text(entry, "path");
    let known = ["Exact", "ImplementationSpecific", "Prefix"];
    match entry["pathType"].as_str() {
        None => faults.required(format!("{at}.pathType"), "pathType must be specified"),
        Some(kind) if !known.contains(&kind) => {
            faults.unsupported(format!("{at}.pathType"), kind, &known);
        }
        Some(kind) => {
            let loose = kind == "ImplementationSpecific";
            let at = format!("{at}.path");
            let nothing = loose && path.is_empty();
            if !nothing && !path.starts_with('/') {
                faults.invalid_str(&at, path, "must be an absolute path");
            }
            if !loose {
                check_plain(path, &at, faults);
            }
        }
    }
    check_backend(&entry["backend"], &format!("{at}.backend"), faults);
}

/// A path that has one meaning to everybody who reads it.
fn check_plain(path: &str, at: &str, faults: &mut Faults) {
    for part in ["//", "/./", "/../", "%2f", "%2F"] {
        if path.contains(part) {
            faults.invalid_str(at, path, format!("must not contain '{part}'"));
        }
    }
    for end in ["/..", "/."] {
        if path.ends_with(end) {
            faults.invalid_str(at, path, format!("cannot end with '{end}'"));
        }
    }
}

fn check_backend(backend: &Value, at: &str, faults: &mut Faults) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (true, true) => faults.required(at, "resource or service backend is required"),
        (false, false) => {
            let detail = "cannot set both resource and service backends";
            faults.invalid(at, backend, detail);
        }
        (true, false) => {
            for field in ["kind", "name"] {
                if text(resource, field).is_empty() {
                    faults.required(format!("{at}.resource.{field}"), "");
                }
            }
        }
        (false, true) => check_service(service, &format!("{at}.service"), faults),
    }
}

fn check_service(service: &Value, at: &str, faults: &mut Faults) {
    let name = text(service, "name");
    if name.is_empty() {
        faults.required(format!("{at}.name"), "");
    } else {
        for wrong in names::label_1035(name) {
            faults.invalid_str(format!("{at}.name"), name, wrong);
        }
    }
    let port = &service["port"];
    let number = port["number"].as_i64().unwrap_or(0);
    match (text(port, "name"), number) {
        ("", 0) => faults.required(format!("{at}.port"), "port name or number is required"),
        ("", number) if !(1..=65535).contains(&number) => {
            let detail = "must be between 1 and 65535, inclusive";
            faults.invalid(format!("{at}.port.number"), &port["number"], detail);
        }
        ("", _) => {}
        (name, 0) => {
            for wrong in names::port(name) {
                faults.invalid_str(format!("{at}.port.name"), name, wrong);
            }
        }
        _ => {
            let detail = "cannot set both port name & port number";
            faults.invalid(at, service, detail);
        }
    }
}

fn row(o: &Object) -> Vec<Value> {
    let hosts = items(o.at("/spec/rules")).map(|(_, r)| text(r, "host"));
    let hosts: Vec<&str> = hosts.filter(|h| !h.is_empty()).collect();
    let hosts = if hosts.is_empty() {
        "*".to_owned()
    } else {
        hosts.join(",")
    };
    let addresses = items(o.at("/status/loadBalancer/ingress")).map(|(_, i)| match text(i, "ip") {
        "" => text(i, "hostname"),
        ip => ip,
    });
    let addresses: Vec<&str> = addresses.collect();
    let tls = items(o.at("/spec/tls")).next().is_some();
    vec![
        json!(o.name()),
        json!(o.at("/spec/ingressClassName").as_str().unwrap_or("<none>")),
        json!(hosts),
        json!(addresses.join(",")),
        json!(if tls { "80, 443" } else { "80" }),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
