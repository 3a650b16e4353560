//! `EndpointSlice`.

use serde_json::{Value, json};

use super::podspec::{default, each};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, text};
use crate::store::Object;

/// `discovery.k8s.io/v1` `EndpointSlice`.
pub static ENDPOINT_SLICE: Resource = Resource {
    group: "discovery.k8s.io",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("AddressType"),
        Column::text("Ports"),
        Column::text("Endpoints"),
        Column::text("Age"),
    ],
    row,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

fn defaults(slice: &mut Value) {
    for port in each(slice, "ports") {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

fn validate(slice: &Value, faults: &mut Faults) {
    if text(slice, "addressType").is_empty() {
        faults.required("addressType", "");
    }
    faults.one_of(
        "addressType",
        &slice["addressType"],
        &["IPv4", "IPv6", "FQDN"],
    );
    if slice["endpoints"].as_array().map_or(0, Vec::len) > 1000 {
        let message = "must have at most 1000 items";
        faults.invalid(
            "endpoints",
            &json!(slice["endpoints"].as_array().map_or(0, Vec::len)),
            message,
        );
    }
    for (i, e) in items(&slice["endpoints"]) {
        if e["addresses"].as_array().is_none_or(Vec::is_empty) {
            faults.required(
                format!("endpoints[{i}].addresses"),
                "must contain at least 1 address",
            );
        }
        for (j, a) in items(&e["addresses"]) {
            let address = a.as_str().unwrap_or_default();
            let fits = match text(slice, "addressType") {
                "IPv4" => address.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => address.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => true,
            };
            if !fits {
                let kind = text(slice, "addressType");
                let path = format!("endpoints[{i}].addresses[{j}]");
                faults.invalid_str(path, address, format!("must be an {kind} address"));
            }
        }
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    faults.immutable("addressType", &old["addressType"], &new["addressType"]);
}

/// At most three, and how many more.
fn short(all: Vec<String>) -> String {
    match all.len() {
        0 => "<unset>".into(),
        n @ ..=3 => all[..n].join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn row(o: &Object) -> Vec<Value> {
    let ports = items(o.at("/ports"))
        .filter_map(|(_, p)| p["port"].as_i64())
        .map(|p| p.to_string());
    let addresses = items(o.at("/endpoints")).flat_map(|(_, e)| items(&e["addresses"]));
    let addresses = addresses.filter_map(|(_, a)| a.as_str()).map(str::to_owned);
    vec![
        json!(o.name()),
        json!(o.str_at("/addressType")),
        json!(short(ports.collect())),
        json!(short(addresses.collect())),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
