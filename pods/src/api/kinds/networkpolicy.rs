//! `NetworkPolicy`.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::podspec::{default, each, object};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, meta, names, text};
use crate::proxy::policy::Cidr;
use crate::store::{Object, Selector};

/// `networking.k8s.io/v1` `NetworkPolicy`.
pub static NETWORK_POLICY: Resource = Resource {
    group: "networking.k8s.io",
    plural: "networkpolicies",
    singular: "networkpolicy",
    kind: "NetworkPolicy",
    short_names: &["netpol"],
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("Pod-Selector"),
        Column::text("Age"),
    ],
    row,
    defaults,
    validate,
    ..Resource::BASE
};

fn defaults(policy: &mut Value) {
    let spec = object(policy, "spec");
    default(spec, "podSelector", json!({}));
    for list in ["ingress", "egress"] {
        for rule in each(spec, list) {
            for port in each(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    if items(&spec["policyTypes"]).next().is_none() {
        let egress = items(&spec["egress"]).next().is_some();
        spec["policyTypes"] = if egress {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        };
    }
}

fn validate(policy: &Value, faults: &mut Faults) {
    let spec = &policy["spec"];
    meta::selector(&spec["podSelector"], "spec.podSelector", faults);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(&spec[list]) {
            let path = format!("spec.{list}[{i}]");
            for (j, port) in items(&rule["ports"]) {
                check_port(port, &format!("{path}.ports[{j}]"), faults);
            }
            for (j, peer) in items(&rule[peers]) {
                check_peer(peer, &format!("{path}.{peers}[{j}]"), faults);
            }
        }
    }
    let types = &spec["policyTypes"];
    if items(types).count() > 2 {
        let detail = "may not specify more than two policyTypes";
        faults.invalid("spec.policyTypes", types, detail);
        return;
    }
    for (i, kind) in items(types) {
        let path = format!("spec.policyTypes[{i}]");
        faults.one_of(&path, kind, &["Egress", "Ingress"]);
    }
}

fn check_port(port: &Value, path: &str, faults: &mut Faults) {
    const RANGE: &str = "must be between 1 and 65535, inclusive";
    let in_range = |n: &i64| (1..=65535).contains(n);
    let protocols = ["SCTP", "TCP", "UDP"];
    faults.one_of(&format!("{path}.protocol"), &port["protocol"], &protocols);
    let end = &port["endPort"];
    match &port["port"] {
        Value::Null if !end.is_null() => {
            let detail = "may not be specified when `port` is not specified";
            faults.invalid(format!("{path}.endPort"), end, detail);
        }
        Value::String(name) => {
            if !end.is_null() {
                let detail = "may not be specified when `port` is non-numeric";
                faults.invalid(format!("{path}.endPort"), end, detail);
            }
            for wrong in names::port(name) {
                faults.invalid_str(format!("{path}.port"), name, wrong);
            }
        }
        Value::Number(_) => {
            let first = port["port"].as_i64().filter(in_range);
            if first.is_none() {
                faults.invalid(format!("{path}.port"), &port["port"], RANGE);
            }
            let last = end.as_i64();
            if !end.is_null() && !last.as_ref().is_some_and(in_range) {
                faults.invalid(format!("{path}.endPort"), end, RANGE);
            } else if last.is_some() && last < first {
                let detail = "must be greater than or equal to `port`";
                faults.invalid(format!("{path}.endPort"), end, detail);
            }
        }
        _ => {}
    }
}

fn check_peer(peer: &Value, path: &str, faults: &mut Faults) {
    let block = &peer["ipBlock"];
    let selectors = ["podSelector", "namespaceSelector"].map(|field| &peer[field]);
    let selected = selectors.iter().any(|s| !s.is_null());
    if block.is_null() && !selected {
        faults.required(path, "must specify a peer");
    }
    for (field, selector) in ["podSelector", "namespaceSelector"].iter().zip(selectors) {
        meta::selector(selector, &format!("{path}.{field}"), faults);
    }
    if block.is_null() {
        return;
    }
    if selected {
        faults.forbidden(path, "may not specify both ipBlock and another peer");
        return;
    }
    check_block(block, &format!("{path}.ipBlock"), faults);
}

fn check_block(block: &Value, path: &str, faults: &mut Faults) {
    const FORM: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let whole = text(block, "cidr");
    if whole.is_empty() {
        faults.required(format!("{path}.cidr"), "");
        return;
    }
    let Ok(whole) = whole.parse::<Cidr>() else {
        faults.invalid_str(format!("{path}.cidr"), whole, FORM);
        return;
    };
    for (i, except) in items(&block["except"]) {
        let path = format!("{path}.except[{i}]");
        let except = except.as_str().unwrap_or_default();
        match except.parse::<Cidr>() {
            Err(()) => faults.invalid_str(path, except, FORM),
            Ok(part) if !whole.holds(&part) || whole == part => {
                faults.invalid_str(path, except, "must be a strict subset of `cidr`");
            }
            Ok(_) => {}
        }
    }
}

/// Whether a text is an address, which some names may not be.
pub(super) fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn row(o: &Object) -> Vec<Value> {
    let selector = Selector::from_label_selector(o.at("/spec/podSelector"));
    let selector = selector.ok().flatten().map(|s| s.label_string());
    let selector = selector.filter(|s| !s.is_empty());
    vec![
        json!(o.name()),
        json!(selector.unwrap_or_else(|| "<none>".to_owned())),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
