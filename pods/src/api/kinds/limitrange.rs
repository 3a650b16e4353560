//! `LimitRange`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::Column;
use crate::api::validate::{Faults, entries, items, text};
use crate::quantity::parse_nano;
use crate::store::Object;

/// `v1` `LimitRange`.
pub static LIMIT_RANGE: Resource = Resource {
    plural: "limitranges",
    singular: "limitrange",
    kind: "LimitRange",
    short_names: &["limits"],
    columns: &[Column::text("Name"), Column::text("Created At")],
    row: |o: &Object| vec![json!(o.name()), o.at("/metadata/creationTimestamp").clone()],
    defaults,
    validate,
    ..Resource::BASE
};

/// A bound is a default too, where none is given (upstream's `SetDefaults_LimitRangeItem`).
fn defaults(range: &mut Value) {
    for item in super::podspec::each(&mut range["spec"], "limits") {
        if item["type"] != "Container" {
            continue;
        }
        for (field, from) in [
            ("default", "max"),
            ("defaultRequest", "default"),
            ("defaultRequest", "min"),
        ] {
            for (name, amount) in item[from].as_object().cloned().into_iter().flatten() {
                super::podspec::default(super::podspec::object(item, field), &name, amount);
            }
        }
        if let Some(map) = item.as_object_mut() {
            map.retain(|_, v| !v.is_null());
        }
    }
}

fn validate(range: &Value, faults: &mut Faults) {
    let mut seen = std::collections::HashSet::new();
    for (i, item) in items(&range["spec"]["limits"]) {
        let path = format!("spec.limits[{i}]");
        let kind = text(item, "type");
        if !seen.insert(kind) {
            faults.duplicate(format!("{path}.type"), &item["type"]);
        }
        if !matches!(kind, "Container" | "Pod" | "PersistentVolumeClaim") {
            let detail = "must be a standard limit type or fully qualified";
            faults.invalid_str(format!("{path}.type"), kind, detail);
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item[field].is_object() {
                    let detail = "may not be specified when `type` is 'Pod'";
                    faults.forbidden(format!("{path}.{field}"), detail);
                }
            }
        }
        ordered(item, &path, faults);
    }
}

fn nano(value: &Value) -> Option<i128> {
    value.as_str().and_then(parse_nano)
}

/// min ≤ defaultRequest ≤ default ≤ max.
fn ordered(item: &Value, path: &str, faults: &mut Faults) {
    let fields = ["min", "defaultRequest", "default", "max"];
    for (low, field) in fields.iter().enumerate() {
        for (name, amount) in entries(&item[field]) {
            for more in &fields[low + 1..] {
                let bound = &item[more][name];
                if let (Some(a), Some(b)) = (nano(amount), nano(bound))
                    && a > b
                {
                    let detail = format!(
                        "{field} value {} is greater than {more} value {}",
                        amount.as_str().unwrap_or_default(),
                        bound.as_str().unwrap_or_default()
                    );
                    faults.invalid(format!("{path}.{field}[{name}]"), amount, detail);
                }
            }
        }
    }
}
