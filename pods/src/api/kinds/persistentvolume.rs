//! `PersistentVolume`: `hostPath` and `local` ones; the others belong to clouds.

use serde_json::{Value, json};

use super::persistentvolumeclaim::{mode_faults, modes, or_unset};
use super::podspec::{default, object};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, entries, text};
use crate::quantity::parse_nano;
use crate::store::Object;

/// `v1` `PersistentVolume`.
pub static PERSISTENT_VOLUME: Resource = Resource {
    plural: "persistentvolumes",
    singular: "persistentvolume",
    kind: "PersistentVolume",
    namespaced: false,
    short_names: &["pv"],
    has_status: true,
    returns_deleted: true,
    columns: &[
        Column::text("Name"),
        Column::text("Capacity"),
        Column::text("Access Modes"),
        Column::text("Reclaim Policy"),
        Column::text("Status"),
        Column::text("Claim"),
        Column::text("StorageClass"),
        Column::text("VolumeAttributesClass"),
        Column::text("Reason"),
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

fn defaults(volume: &mut Value) {
    let spec = object(volume, "spec");
    default(spec, "persistentVolumeReclaimPolicy", "Retain");
    default(spec, "volumeMode", "Filesystem");
    if spec["hostPath"].is_object() {
        default(&mut spec["hostPath"], "type", "");
    } else if let Some(map) = spec.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

/// Fields of the spec that are not a source.
const PLAIN: &[&str] = &[
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

fn validate(volume: &Value, faults: &mut Faults) {
    let spec = &volume["spec"];
    mode_faults(&spec["accessModes"], "spec.accessModes", faults);
    let storage = &spec["capacity"]["storage"];
    match storage.as_str().map(parse_nano) {
        None => faults.required("spec.capacity", ""),
        Some(Some(n)) if n <= 0 => faults.invalid(
            "spec.capacity[storage]",
            storage,
            "must be greater than zero",
        ),
        Some(_) => {}
    }
    let known = ["Delete", "Recycle", "Retain"];
    let policy = &spec["persistentVolumeReclaimPolicy"];
    faults.one_of("spec.persistentVolumeReclaimPolicy", policy, &known);
    if policy == "Recycle" {
        faults.forbidden(
            "spec.persistentVolumeReclaimPolicy",
            "Recycle is deprecated, and not there: use Delete or Retain",
        );
    }
    let mut sources = entries(spec).filter(|(name, _)| !PLAIN.contains(&name.as_str()));
    let Some((kind, source)) = sources.next() else {
        return faults.required("spec", "must specify a volume type");
    };
    for (more, _) in sources {
        faults.forbidden(
            format!("spec.{more}"),
            "may not specify more than 1 volume type",
        );
    }
    match kind.as_str() {
        "hostPath" | "local" => {
            let path = text(source, "path");
            if path.is_empty() {
                faults.required(format!("spec.{kind}.path"), "");
            }
            if path.split('/').any(|part| part == "..") {
                faults.invalid(
                    format!("spec.{kind}.path"),
                    &source["path"],
                    "must not contain '..'",
                );
            }
        }
        other => faults.forbidden(
            format!("spec.{other}"),
            "volumes are of type hostPath or local here",
        ),
    }
    if kind == "local" && spec["nodeAffinity"].is_null() {
        faults.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    for source in ["hostPath", "local"] {
        if old["spec"][source] != new["spec"][source] {
            faults.forbidden(
                "spec.persistentvolumesource",
                "spec.persistentvolumesource is immutable after creation",
            );
        }
    }
    faults.immutable(
        "spec.volumeMode",
        &old["spec"]["volumeMode"],
        &new["spec"]["volumeMode"],
    );
}

fn row(o: &Object) -> Vec<Value> {
    let claim = o.at("/spec/claimRef");
    let claim = if claim.is_object() {
        format!("{}/{}", text(claim, "namespace"), text(claim, "name"))
    } else {
        String::new()
    };
    let phase = if o.is_deleting() {
        "Terminating"
    } else {
        o.str_at("/status/phase")
    };
    vec![
        json!(o.name()),
        json!(o.str_at("/spec/capacity/storage")),
        json!(modes(o.at("/spec/accessModes"))),
        json!(o.str_at("/spec/persistentVolumeReclaimPolicy")),
        json!(phase),
        json!(claim),
        json!(o.str_at("/spec/storageClassName")),
        json!(or_unset(o.str_at("/spec/volumeAttributesClassName"))),
        json!(o.str_at("/status/reason")),
        json!(age(o.at("/metadata/creationTimestamp"))),
        json!(o.str_at("/spec/volumeMode")),
    ]
}
