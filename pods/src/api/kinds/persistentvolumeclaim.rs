//! `PersistentVolumeClaim`.

use serde_json::{Value, json};

use super::podspec::{default, object};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, meta, text};
use crate::quantity::parse_nano;
use crate::store::Object;

/// `v1` `PersistentVolumeClaim`.
pub static PERSISTENT_VOLUME_CLAIM: Resource = Resource {
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    kind: "PersistentVolumeClaim",
    short_names: &["pvc"],
    has_status: true,
    returns_deleted: true,
    columns: &[
        Column::text("Name"),
        Column::text("Status"),
        Column::text("Volume"),
        Column::text("Capacity"),
        Column::text("Access Modes"),
        Column::text("StorageClass"),
        Column::text("VolumeAttributesClass"),
        Column::text("Age"),
        Column::wide("VolumeMode"),
    ],
    row,
    prepare: |o| o["status"] = json!({"phase": "Pending"}),
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

/// The short form of access modes, in Kubernetes' order.
pub(super) fn modes(list: &Value) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let there = known
        .iter()
        .filter(|(mode, _)| items(list).any(|(_, m)| m == mode));
    there.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// Defaults, also of a StatefulSet's templates.
pub(super) fn defaults(claim: &mut Value) {
    let spec = object(claim, "spec");
    default(spec, "volumeMode", "Filesystem");
}

fn validate(claim: &Value, faults: &mut Faults) {
    spec_faults(&claim["spec"], "spec", faults);
}

/// Access modes of a claim or a volume.
pub(super) fn mode_faults(list: &Value, path: &str, faults: &mut Faults) {
    if items(list).next().is_none() {
        faults.required(path, "at least 1 access mode is required");
    }
    let known = [
        "ReadOnlyMany",
        "ReadWriteMany",
        "ReadWriteOnce",
        "ReadWriteOncePod",
    ];
    for (_, mode) in items(list) {
        faults.one_of(path, mode, &known);
    }
}

/// Faults of a claim's spec at a path, also of a StatefulSet's templates.
pub(super) fn spec_faults(spec: &Value, path: &str, faults: &mut Faults) {
    mode_faults(&spec["accessModes"], &format!("{path}.accessModes"), faults);
    let storage = &spec["resources"]["requests"]["storage"];
    let at = format!("{path}.resources[storage]");
    match storage.as_str().map(parse_nano) {
        None => faults.required(at, ""),
        Some(Some(n)) if n <= 0 => faults.invalid(at, storage, "must be greater than zero"),
        Some(_) => {}
    }
    faults.one_of(
        &format!("{path}.volumeMode"),
        &spec["volumeMode"],
        &["Block", "Filesystem"],
    );
    meta::selector(&spec["selector"], &format!("{path}.selector"), faults);
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    let (was, is) = (&old["spec"], &new["spec"]);
    let unbound = text(was, "volumeName").is_empty();
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            map.remove("resources");
            // Binding sets it, once.
            if unbound {
                map.remove("volumeName");
            }
        }
        spec
    };
    if fixed(was) != fixed(is) {
        faults.forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
    }
    let size =
        |spec: &Value| parse_nano(text(&spec["resources"]["requests"], "storage")).unwrap_or(0);
    if size(is) < size(was) {
        faults.forbidden(
            "spec.resources.requests.storage",
            "field can not be less than status.capacity",
        );
    } else if size(is) > size(was) {
        let detail = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        faults.forbidden("spec.resources.requests.storage", detail);
    }
}

fn row(o: &Object) -> Vec<Value> {
    let phase = if o.is_deleting() {
        "Terminating"
    } else {
        o.str_at("/status/phase")
    };
    let bound = !o.str_at("/spec/volumeName").is_empty();
    let capacity = if bound {
        o.str_at("/status/capacity/storage")
    } else {
        ""
    };
    let shown = if bound {
        modes(o.at("/status/accessModes"))
    } else {
        String::new()
    };
    vec![
        json!(o.name()),
        json!(phase),
        json!(o.str_at("/spec/volumeName")),
        json!(capacity),
        json!(shown),
        json!(o.str_at("/spec/storageClassName")),
        json!(or_unset(o.str_at("/spec/volumeAttributesClassName"))),
        json!(age(o.at("/metadata/creationTimestamp"))),
        json!(o.str_at("/spec/volumeMode")),
    ]
}

/// Kubernetes' mark of what is not said.
pub(super) fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}
