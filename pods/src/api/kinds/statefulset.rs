//! `StatefulSet`.

use serde_json::{Value, json};

use super::podspec::{self, default, each, object};
use super::{persistentvolumeclaim, workload};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, text};
use crate::store::Object;

/// `apps/v1` `StatefulSet`.
pub static STATEFUL_SET: Resource = Resource {
    group: "apps",
    plural: "statefulsets",
    singular: "statefulset",
    kind: "StatefulSet",
    short_names: &["sts"],
    categories: &["all"],
    has_status: true,
    has_scale: true,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("Ready"),
        Column::text("Age"),
        Column::wide("Containers"),
        Column::wide("Images"),
    ],
    row,
    prepare: |o| o["status"] = json!({"replicas": 0, "availableReplicas": 0}),
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

fn defaults(set: &mut Value) {
    let spec = object(set, "spec");
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object(spec, "updateStrategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default(object(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
    default(retention, "whenDeleted", "Retain");
    default(retention, "whenScaled", "Retain");
    podspec::template(&mut spec["template"]);
    for claim in each(spec, "volumeClaimTemplates") {
        default(claim, "apiVersion", "v1");
        default(claim, "kind", "PersistentVolumeClaim");
        persistentvolumeclaim::defaults(claim);
        default(object(claim, "status"), "phase", "Pending");
    }
}

fn validate(set: &Value, faults: &mut Faults) {
    let spec = &set["spec"];
    workload::check(spec, "StatefulSet", faults);
    let known = ["OrderedReady", "Parallel"];
    match text(spec, "podManagementPolicy") {
        "OrderedReady" | "Parallel" => {}
        other => faults.invalid_str(
            "spec.podManagementPolicy",
            other,
            format!("must be '{}' or '{}'", known[0], known[1]),
        ),
    }
    let strategy = &spec["updateStrategy"];
    match text(strategy, "type") {
        "RollingUpdate" => {
            let rolling = &strategy["rollingUpdate"];
            faults.not_negative(
                "spec.updateStrategy.rollingUpdate.partition",
                &rolling["partition"],
            );
            let most = &rolling["maxUnavailable"];
            if most == 0 || most == "0%" {
                faults.invalid(
                    "spec.updateStrategy.rollingUpdate.maxUnavailable",
                    most,
                    "cannot be 0",
                );
            }
        }
        "OnDelete" if !strategy["rollingUpdate"].is_null() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            faults.invalid(
                "spec.updateStrategy.rollingUpdate",
                &strategy["rollingUpdate"],
                detail,
            );
        }
        "OnDelete" => {}
        other => faults.invalid_str(
            "spec.updateStrategy",
            other,
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for field in ["whenDeleted", "whenScaled"] {
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        faults.one_of(&path, &retention[field], &["Delete", "Retain"]);
    }
    faults.not_negative("spec.ordinals.start", &spec["ordinals"]["start"]);
    for (i, claim) in items(&spec["volumeClaimTemplates"]) {
        let path = format!("spec.volumeClaimTemplates[{i}]");
        if text(&claim["metadata"], "name").is_empty() {
            faults.required(format!("{path}.metadata.name"), "");
        }
        persistentvolumeclaim::spec_faults(&claim["spec"], &format!("{path}.spec"), faults);
    }
}

const MAY_CHANGE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    let fixed = |set: &Value| {
        let mut spec = set["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|field, _| !MAY_CHANGE.contains(&field.as_str()));
        }
        spec
    };
    if fixed(old) != fixed(new) {
        faults.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

fn row(o: &Object) -> Vec<Value> {
    let count = |at: &str| o.int_at(at).unwrap_or(0);
    let [containers, images, _] = workload::wide(o.at("/spec"));
    let ready = format!(
        "{}/{}",
        count("/status/readyReplicas"),
        count("/spec/replicas")
    );
    vec![
        json!(o.name()),
        json!(ready),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
    ]
}
