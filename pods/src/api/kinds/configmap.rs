//! `ConfigMap`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, entries, names};
use crate::store::Object;

/// Bound of all data of a ConfigMap or a Secret together.
pub(super) const MAX_DATA: usize = 1 << 20;

/// `v1` `ConfigMap`.
pub static CONFIG_MAP: Resource = Resource {
    plural: "configmaps",
    singular: "configmap",
    kind: "ConfigMap",
    short_names: &["cm"],
    columns: &[
        Column::text("Name"),
        Column::int("Data"),
        Column::text("Age"),
    ],
    row,
    validate,
    validate_update,
    ..Resource::BASE
};

/// Faults of the keys, and of the size of all values.
pub(super) fn data_faults(object: &Value, fields: &[&str], faults: &mut Faults) {
    let (mut seen, mut size) = (HashSet::new(), 0);
    for field in fields {
        for (key, value) in entries(&object[*field]) {
            let path = format!("{field}[{key}]");
            for w in names::config_key(key) {
                faults.invalid_str(&path, key, w);
            }
            if !seen.insert(key) {
                faults.invalid_str(
                    &path,
                    key,
                    format!("duplicate of key present in {}", fields[0]),
                );
            }
            let length = value.as_str().map_or(0, str::len);
            size += if *field == "data" && fields.len() == 2 {
                length
            } else {
                length / 4 * 3
            };
        }
    }
    if size > MAX_DATA {
        // "[]" is how Kubernetes names the whole, in front of which it has no name.
        let field = if fields.len() == 2 { "[]" } else { "data" };
        faults.too_long(field, MAX_DATA);
    }
}

/// What an immutable object may not change.
pub(super) fn immutable(old: &Value, new: &Value, fields: &[&str], faults: &mut Faults) {
    if old["immutable"] != true {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    for field in fields.iter().chain([&"immutable"]) {
        if old[*field] != new[*field] {
            faults.forbidden(*field, detail);
        }
    }
}

fn validate(map: &Value, faults: &mut Faults) {
    data_faults(map, &["data", "binaryData"], faults);
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    immutable(old, new, &["data", "binaryData"], faults);
}

fn row(o: &Object) -> Vec<Value> {
    let count = |at: &str| o.at(at).as_object().map_or(0, serde_json::Map::len);
    let data = count("/data") + count("/binaryData");
    vec![
        json!(o.name()),
        json!(data),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
