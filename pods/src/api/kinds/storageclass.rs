//! `StorageClass`.

use serde_json::{Value, json};

use super::podspec::default;
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, text};
use crate::store::Object;

/// `storage.k8s.io/v1` `StorageClass`.
pub static STORAGE_CLASS: Resource = Resource {
    group: "storage.k8s.io",
    plural: "storageclasses",
    singular: "storageclass",
    kind: "StorageClass",
    namespaced: false,
    short_names: &["sc"],
    columns: &[
        Column::text("Name"),
        Column::text("Provisioner"),
        Column::text("ReclaimPolicy"),
        Column::text("VolumeBindingMode"),
        Column::text("AllowVolumeExpansion"),
        Column::text("Age"),
    ],
    row,
    defaults: |class| {
        default(class, "reclaimPolicy", "Delete");
        default(class, "volumeBindingMode", "Immediate");
    },
    validate,
    validate_update,
    ..Resource::BASE
};

fn validate(class: &Value, faults: &mut Faults) {
    if text(class, "provisioner").is_empty() {
        faults.required("provisioner", "");
    }
    faults.one_of(
        "reclaimPolicy",
        &class["reclaimPolicy"],
        &["Delete", "Retain"],
    );
    let known = ["Immediate", "WaitForFirstConsumer"];
    faults.one_of("volumeBindingMode", &class["volumeBindingMode"], &known);
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if old[field] != new[field] {
            faults.forbidden(field, format!("updates to {field} are forbidden."));
        }
    }
    faults.immutable(
        "volumeBindingMode",
        &old["volumeBindingMode"],
        &new["volumeBindingMode"],
    );
}

fn row(o: &Object) -> Vec<Value> {
    let default = o.annotation("storageclass.kubernetes.io/is-default-class") == Some("true");
    let mark = if default { " (default)" } else { "" };
    vec![
        json!(format!("{}{mark}", o.name())),
        o.at("/provisioner").clone(),
        o.at("/reclaimPolicy").clone(),
        o.at("/volumeBindingMode").clone(),
        json!((o.at("/allowVolumeExpansion") == true).to_string()),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
