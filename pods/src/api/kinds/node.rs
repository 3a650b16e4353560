//! `Node`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, names, text};
use crate::store::Object;

/// `v1` `Node`.
pub static NODE: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    namespaced: false,
    short_names: &["no"],
    has_status: true,
    fields: &["spec.unschedulable"],
    columns: &[
        Column::text("Name"),
        Column::text("Status"),
        Column::text("Roles"),
        Column::text("Age"),
        Column::text("Version"),
        Column::wide("Internal-IP"),
        Column::wide("External-IP"),
        Column::wide("OS-Image"),
        Column::wide("Kernel-Version"),
        Column::wide("Container-Runtime"),
    ],
    row,
    // The one kind whose status may come with its creation: the node agent registers so.
    prepare: |_| {},
    validate,
    ..Resource::BASE
};

fn validate(node: &Value, faults: &mut Faults) {
    for (i, t) in items(&node["spec"]["taints"]) {
        let path = format!("spec.taints[{i}]");
        let key = text(t, "key");
        for w in names::qualified(key) {
            faults.invalid_str(format!("{path}.key"), key, w);
        }
        match text(t, "effect") {
            "" => faults.required(format!("{path}.effect"), ""),
            _ => faults.one_of(
                &format!("{path}.effect"),
                &t["effect"],
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            ),
        }
    }
}

fn row(o: &Object) -> Vec<Value> {
    let node = o.value();
    let ready = items(&node["status"]["conditions"]).find(|(_, c)| c["type"] == "Ready");
    let mut status = match ready {
        Some((_, c)) if c["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let mut all = items(&node["status"]["addresses"]);
        all.find(|(_, a)| a["type"] == kind)
            .map_or("<none>".into(), |(_, a)| text(a, "address").to_owned())
    };
    let info = |field: &str| match text(&node["status"]["nodeInfo"], field) {
        "" => json!("<unknown>"),
        v => json!(v),
    };
    vec![
        json!(o.name()),
        json!(status),
        json!(roles(node)),
        json!(age(&node["metadata"]["creationTimestamp"])),
        info("kubeletVersion"),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let all = labels.into_iter().flatten().filter_map(|(k, v)| {
        let role = k
            .strip_prefix("node-role.kubernetes.io/")
            .map(str::to_owned);
        role.or_else(|| {
            (k == "kubernetes.io/role").then(|| v.as_str().unwrap_or_default().to_owned())
        })
    });
    let all: Vec<String> = all.filter(|r| !r.is_empty()).collect();
    if all.is_empty() {
        "<none>".into()
    } else {
        all.join(",")
    }
}
