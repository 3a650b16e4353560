//! `metadata`: names, labels, annotations, owners, finalizers.

use serde_json::Value;

use super::names::{self, Wrong};
use super::{Faults, entries, items, text};

/// Bound of all annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// The faults of an object's metadata. `name` is the rule of the kind's names.
pub fn check(object: &Value, name: fn(&str) -> Wrong, faults: &mut Faults) {
    let meta = &object["metadata"];
    let own = text(meta, "name");
    if own.is_empty() {
        faults.required("metadata.name", "name or generateName is required");
    } else {
        for w in name(own) {
            faults.invalid_str("metadata.name", own, w);
        }
    }
    labels(&meta["labels"], "metadata.labels", faults);
    annotations(&meta["annotations"], "metadata.annotations", faults);
    owners(&meta["ownerReferences"], faults);
    for (i, f) in items(&meta["finalizers"]) {
        let f = f.as_str().unwrap_or_default();
        let path = format!("metadata.finalizers[{i}]");
        for w in names::qualified(f) {
            faults.invalid_str(&path, f, w);
        }
        // Operators have long named theirs by a domain alone.
        if !f.contains(['/', '.']) && !matches!(f, "orphan" | "foregroundDeletion" | "kubernetes") {
            faults.invalid_str(
                &path,
                f,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
}

/// Labels at a path.
pub fn labels(map: &Value, path: &str, faults: &mut Faults) {
    for (key, value) in entries(map) {
        for w in names::qualified(key) {
            faults.invalid_str(path, key, w);
        }
        let value = value.as_str().unwrap_or_default();
        for w in names::label_value(value) {
            faults.invalid_str(path, value, w);
        }
    }
}

/// Annotations at a path.
pub fn annotations(map: &Value, path: &str, faults: &mut Faults) {
    let mut size = 0;
    for (key, value) in entries(map) {
        for w in names::qualified(&key.to_lowercase()) {
            faults.invalid_str(path, key, w);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        faults.too_long(path, MAX_ANNOTATIONS);
    }
}

fn owners(list: &Value, faults: &mut Faults) {
    let mut controllers = 0;
    for (i, o) in items(list) {
        let path = format!("metadata.ownerReferences[{i}]");
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(o, field).is_empty() {
                let detail = format!("{field} must not be empty");
                faults.invalid_str(format!("{path}.{field}"), "", detail);
            }
        }
        controllers += usize::from(o["controller"] == true);
    }
    if controllers > 1 {
        let detail = "Only one reference can have Controller set to true";
        faults.invalid("metadata.ownerReferences", list, detail);
    }
}

/// A LabelSelector at a path.
pub fn selector(selector: &Value, path: &str, faults: &mut Faults) {
    labels(
        &selector["matchLabels"],
        &format!("{path}.matchLabels"),
        faults,
    );
    for (i, e) in items(&selector["matchExpressions"]) {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = e["values"].as_array().map_or(0, Vec::len);
        match text(e, "operator") {
            "In" | "NotIn" if values == 0 => {
                faults.required(
                    format!("{path}.values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                faults.forbidden(
                    format!("{path}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => faults.invalid_str(
                format!("{path}.operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = text(e, "key");
        for w in names::qualified(key) {
            faults.invalid_str(format!("{path}.key"), key, w);
        }
    }
}

/// Fields of metadata that never change (an update puts the old value back before this is asked,
/// but for the ones that a user may have meant).
pub fn check_update(old: &Value, new: &Value, faults: &mut Faults) {
    for field in ["uid", "name", "namespace"] {
        let (was, is) = (text(&old["metadata"], field), text(&new["metadata"], field));
        if !is.is_empty() && was != is {
            faults.invalid_str(format!("metadata.{field}"), is, "field is immutable");
        }
    }
}
