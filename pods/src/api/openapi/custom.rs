//! Custom resources in OpenAPI documents: their definitions' schemas, with what every object has.

use serde_json::{Map, Value, json};

use super::models::{Form, gvk};
use crate::api::custom::Custom;
use crate::api::resource::Res;

/// `com.example.stable.v1.Cron`, as Kubernetes names it.
pub(super) fn name(r: Res) -> String {
    let group: Vec<&str> = r.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), r.version, r.kind)
}

/// Name and model.
pub(super) fn model(r: Res, form: Form) -> (String, Value) {
    let document = r.custom.map_or(Value::Null, Custom::document);
    let mut out = if document.is_object() {
        document
    } else {
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    };
    if form == Form::V2 {
        out = plain(&out);
    }
    if !out["properties"].is_object() {
        out["properties"] = json!({});
    }
    let all = &mut out["properties"];
    all["apiVersion"] = json!({"type": "string"});
    all["kind"] = json!({"type": "string"});
    all["metadata"] = form.reference("meta/v1.ObjectMeta");
    out["x-kubernetes-group-version-kind"] = json!([gvk(r)]);
    (name(r), out)
}

/// What version 2 can say: no nulls, no alternatives. Where anything goes, nothing is said.
fn plain(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else {
        return schema.clone();
    };
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true))
        || map.get("nullable") == Some(&json!(true))
        || map.get("x-kubernetes-int-or-string") == Some(&json!(true));
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "description" | "format" | "required" | "default" => {
                out.insert(key.clone(), value.clone());
            }
            "type" | "properties" | "items" if open => {}
            "type" => drop(out.insert(key.clone(), value.clone())),
            "items" => drop(out.insert(key.clone(), plain(value))),
            "additionalProperties" if value.is_object() => {
                out.insert(key.clone(), plain(value));
            }
            "properties" => {
                let all = value.as_object().into_iter().flatten();
                let all: Map<String, Value> = all.map(|(k, v)| (k.clone(), plain(v))).collect();
                out.insert(key.clone(), Value::Object(all));
            }
            ext if ext.starts_with("x-kubernetes-") && ext != "x-kubernetes-validations" => {
                out.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    if open {
        out.remove("required");
    }
    Value::Object(out)
}
