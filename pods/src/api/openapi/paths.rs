//! The paths of a kind, and what may be done there.

use serde_json::{Map, Value, json};

use super::custom;
use super::models::{Form, gvk};
use crate::api::resource::Res;
use crate::api::schema::Schema;

fn parameter(name: &str, kind: &str, form: Form) -> Value {
    match form {
        Form::V2 => json!({"name": name, "in": "query", "type": kind, "uniqueItems": true}),
        Form::V3 => {
            json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
        }
    }
}

fn path_parameter(name: &str, form: Form) -> Value {
    match form {
        Form::V2 => json!({"name": name, "in": "path", "required": true, "type": "string"}),
        Form::V3 => {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        }
    }
}

fn reference_of(r: Res, form: Form) -> Option<Value> {
    if r.custom.is_some() {
        return Some(form.pointer(&custom::name(r)));
    }
    let id = Schema::get().kind(r.group, r.version, r.kind)?;
    Some(form.reference(Schema::get().of(id).name))
}

fn operation(r: Res, action: &str, query: &[(&str, &str)], form: Form) -> Value {
    let parameters: Vec<Value> = query.iter().map(|(n, k)| parameter(n, k, form)).collect();
    let mut ok = json!({"description": "OK"});
    if let Some(reference) = reference_of(r, form) {
        match form {
            Form::V2 => ok["schema"] = reference,
            Form::V3 => ok["content"] = json!({"application/json": {"schema": reference}}),
        }
    }
    json!({"parameters": parameters, "responses": {"200": ok}, "x-kubernetes-action": action,
           "x-kubernetes-group-version-kind": gvk(r)})
}

const WRITE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const PATCH: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const LIST: &[(&str, &str)] = &[
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("watch", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("propagationPolicy", "string"),
];

/// Adds the paths of a kind.
pub(super) fn paths(r: Res, form: Form, out: &mut Map<String, Value>) {
    let base = match r.group {
        "" => format!("/api/{}", r.version),
        g => format!("/apis/{g}/{}", r.version),
    };
    let (scope, mut shared) = if r.namespaced {
        (
            format!("{base}/namespaces/{{namespace}}/{}", r.plural),
            vec![path_parameter("namespace", form)],
        )
    } else {
        (format!("{base}/{}", r.plural), Vec::new())
    };
    let collection = json!({"get": operation(r, "list", LIST, form),
        "post": operation(r, "post", WRITE, form),
        "delete": operation(r, "deletecollection", DELETE, form), "parameters": shared});
    if r.namespaced {
        let all = json!({"get": operation(r, "list", LIST, form)});
        out.insert(format!("{base}/{}", r.plural), all);
    }
    shared.push(path_parameter("name", form));
    let one = json!({"get": operation(r, "get", &[], form), "put": operation(r, "put", WRITE, form),
        "patch": operation(r, "patch", PATCH, form), "delete": operation(r, "delete", DELETE, form),
        "parameters": shared});
    out.insert(format!("{scope}/{{name}}"), one);
    out.insert(scope, collection);
}
