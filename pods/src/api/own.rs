//! What the API itself writes into an object, and keeps others from writing.

use serde_json::{Map, Value, json};

use super::meta;
use super::resource::Res;
use super::status::{Result, Status};

/// Sets what only the API writes at creation; returns namespace and name.
pub(super) fn admit_new(res: Res, ns: &str, object: &mut Value) -> Result<(String, String)> {
    let Some(m) = meta::of(object) else {
        return Err(Status::bad_request("metadata is not an object"));
    };
    let ns = if res.namespaced { ns } else { "" };
    if res.namespaced {
        place(ns, m)?;
    } else {
        m.remove("namespace");
    }
    name(m);
    for own in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        m.remove(own);
    }
    m.insert("uid".into(), Value::String(meta::uuid()));
    m.insert("creationTimestamp".into(), Value::String(meta::now()));
    if res.generation {
        m.insert("generation".into(), json!(1));
    }
    Ok((ns.to_owned(), text(m, "name").to_owned()))
}

fn text<'a>(meta: &'a Map<String, Value>, field: &str) -> &'a str {
    let value = meta.get(field).and_then(Value::as_str);
    value.unwrap_or_default()
}

/// The namespace is the path's; one that the object has is to be the same.
fn place(ns: &str, meta: &mut Map<String, Value>) -> Result<()> {
    let own = text(meta, "namespace");
    if !own.is_empty() && own != ns {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta.insert("namespace".into(), json!(ns));
    Ok(())
}

/// Makes up a name from `generateName` where there is none.
fn name(m: &mut Map<String, Value>) {
    let prefix = text(m, "generateName");
    if text(m, "name").is_empty() && !prefix.is_empty() {
        let name = meta::generate_name(prefix);
        m.insert("name".into(), Value::String(name));
    }
}

/// Fills in `apiVersion` and `kind`, or refuses others.
pub(super) fn typed(res: Res, object: &mut Value) -> Result<()> {
    let Some(map) = object.as_object_mut() else {
        return Err(Status::bad_request("the object is not a JSON object"));
    };
    for (key, want) in [
        ("apiVersion", res.api_version()),
        ("kind", res.kind.to_owned()),
    ] {
        match map.get(key).and_then(Value::as_str).unwrap_or_default() {
            "" => drop(map.insert(key.into(), Value::String(want))),
            found if found == want => {}
            found => {
                return Err(Status::bad_request(format!(
                    "{key} in the data ({found}) does not match the expected {key} ({want})"
                )));
            }
        }
    }
    Ok(())
}

/// Fields of metadata that only the API itself writes.
pub(super) const OWN: &[&str] = &[
    "uid",
    "creationTimestamp",
    "generation",
    "namespace",
    "name",
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// The old object with the status of the new one and, after an apply, its managers.
pub(super) fn with_status(was: &Value, mut new: Value, applies: bool) -> Value {
    let mut out = was.clone();
    if applies {
        out["metadata"]["managedFields"] = new["metadata"]["managedFields"].take();
    }
    let status = new.as_object_mut().and_then(|m| m.remove("status"));
    if let Some(map) = out.as_object_mut() {
        match status {
            Some(s) => drop(map.insert("status".into(), s)),
            None => drop(map.remove("status")),
        }
    }
    out
}

/// Gives the new object a field as the old one had it.
pub(super) fn keep(new: &mut Value, was: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else {
        return;
    };
    match was.get(field) {
        Some(v) => drop(map.insert(field.into(), v.clone())),
        None => drop(map.remove(field)),
    }
}

/// Whether more than the metadata and the status differ.
pub(super) fn changed_beside_meta(res: Res, was: &Value, new: &Value) -> bool {
    // Without a status of its own, a custom resource's is a field as any other.
    let whole = res.custom.is_some_and(|c| !c.has_status());
    let rest = |v: &Value| -> Map<String, Value> {
        let fields = v.as_object().into_iter().flatten();
        fields
            .filter(|(k, _)| *k != "metadata" && (whole || *k != "status"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    rest(was) != rest(new)
}
