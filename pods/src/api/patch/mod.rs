//! Changes of part of an object, in the formats of the API.

mod strategic;

use serde_json::{Map, Value};

use super::client::Patch;
use super::resource::Res;
use super::schema::{Schema, TypeId};
use super::status::{Result, Status};

/// Most operations of a JSON patch: Kubernetes' limit.
const MAX_OPERATIONS: usize = 10_000;

/// What a patch makes of an object. Server-side apply is not among these.
pub(super) fn apply(res: Res, old: &Value, patch: &Patch) -> Result<Value> {
    let shape = Schema::get().kind(res.group, res.version, res.kind);
    of_type(shape, old, patch)
}

/// The same for an object of any type (`Scale`).
pub(super) fn of_type(shape: Option<TypeId>, old: &Value, patch: &Patch) -> Result<Value> {
    let mut new = old.clone();
    match patch {
        Patch::Json(operations) => json(&mut new, operations)?,
        Patch::Merge(p) => merge(&mut new, p),
        Patch::Strategic(p) => match shape {
            Some(id) => strategic::apply(&mut new, p, id).map_err(Status::bad_request)?,
            None => {
                return Err(unsupported(
                    "strategic merge patch is only for kinds with a known shape",
                ));
            }
        },
        Patch::Apply { .. } => return Err(unsupported("server-side apply is not served here")),
    }
    if new.is_object() {
        Ok(new)
    } else {
        Err(Status::bad_request("the patch leaves no object"))
    }
}

fn unsupported(why: &str) -> Status {
    Status::new(415, "UnsupportedMediaType", why)
}

fn json(target: &mut Value, operations: &Value) -> Result<()> {
    if operations
        .as_array()
        .is_some_and(|a| a.len() > MAX_OPERATIONS)
    {
        let why = format!("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}");
        return Err(Status::new(413, "RequestEntityTooLarge", why));
    }
    let patch: json_patch::Patch = serde::Deserialize::deserialize(operations)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    json_patch::patch(target, &patch).map_err(|e| {
        let why = format!("the server rejected our request due to an error in our request: {e}");
        Status::new(422, "Invalid", why)
    })
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use serde_json::json;

    #[test]
    fn json_and_merge() {
        let old = json!({"metadata": {"labels": {"a": "b"}}, "data": {"x": "y"}});
        let of = |p| apply(&kinds::CONFIG_MAP, &old, &p);
        let merged = of(Patch::Merge(json!({"data": {"x": null, "z": "1"}}))).unwrap();
        assert_eq!(merged["data"], json!({"z": "1"}));
        let ops = json!([{"op": "replace", "path": "/data/x", "value": "q"},
                         {"op": "test", "path": "/metadata/labels/a", "value": "b"}]);
        assert_eq!(of(Patch::Json(ops)).unwrap()["data"]["x"], "q");
        let bad = json!([{"op": "test", "path": "/data/x", "value": "other"}]);
        assert_eq!(of(Patch::Json(bad)).unwrap_err().code, 422);
        assert_eq!(of(Patch::Json(json!({"op": 1}))).unwrap_err().code, 400);
        assert_eq!(of(Patch::Merge(json!(3))).unwrap_err().code, 400);
    }
}
