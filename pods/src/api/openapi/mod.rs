//! OpenAPI of what is served, made from the table of types on demand: nothing of it stays in memory.
//!
//! Version 3 is JSON, one document a group version. Version 2 is one document for all, JSON or the
//! protobuf form of gnostic, which is all that kubectl before 1.27 reads.

mod custom;
mod proto;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::custom::fingerprint;
use super::kinds;
use super::resource::Res;
use super::schema::{Field, Merge, Owner, Scalar, Schema, Type, TypeId};

pub use proto::v2 as to_protobuf;

/// Which document: they differ in where types are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    fn reference(self, name: &str) -> Value {
        self.pointer(&model(name))
    }

    /// To a model by the name that it has in the document.
    fn pointer(self, name: &str) -> Value {
        let place = if self == Self::V2 {
            "definitions"
        } else {
            "components/schemas"
        };
        json!({"$ref": format!("#/{place}/{name}")})
    }
}

/// `core/v1.Pod` under the name that Kubernetes' documents give it.
fn model(name: &str) -> String {
    let (package, ty) = name.split_once('.').unwrap_or(("", name));
    let package = package.replace('/', ".");
    if package.starts_with("meta.") {
        format!("io.k8s.apimachinery.pkg.apis.{package}.{ty}")
    } else {
        format!("io.k8s.api.{package}.{ty}")
    }
}

fn scalar(s: Scalar) -> Value {
    match s {
        Scalar::String | Scalar::Quantity => json!({"type": "string"}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
        Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
        Scalar::Number => json!({"type": "number", "format": "double"}),
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::IntStr => json!({"type": "string", "format": "int-or-string"}),
        Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
        Scalar::Any => json!({"type": "object"}),
    }
}

fn type_value(ty: &Type, form: Form) -> Value {
    match ty {
        Type::Scalar(s) => scalar(*s),
        Type::Struct(id) => form.reference(Schema::get().of(*id).name),
        Type::Inline(_) => json!({"type": "object"}),
        Type::List(inner) => json!({"type": "array", "items": type_value(inner, form)}),
        Type::Map(inner) => {
            json!({"type": "object", "additionalProperties": type_value(inner, form)})
        }
    }
}

fn field_value(f: &Field, form: Form) -> Value {
    let mut out = type_value(&f.ty, form);
    match f.merge {
        Merge::Default => {}
        Merge::Set => out["x-kubernetes-patch-strategy"] = json!("merge"),
        Merge::Key(key) => {
            out["x-kubernetes-patch-strategy"] = json!("merge");
            out["x-kubernetes-patch-merge-key"] = json!(key);
        }
        Merge::RetainKeys => out["x-kubernetes-patch-strategy"] = json!("retainKeys"),
    }
    let list = matches!(f.ty, Type::List(_));
    match &f.owner {
        Owner::Default => {}
        Owner::Atomic if list => out["x-kubernetes-list-type"] = json!("atomic"),
        Owner::Atomic => out["x-kubernetes-map-type"] = json!("atomic"),
        Owner::Set => out["x-kubernetes-list-type"] = json!("set"),
        Owner::Keys(keys) => {
            out["x-kubernetes-list-type"] = json!("map");
            out["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    if let Some(default) = f
        .default
        .and_then(|d| serde_json::from_str::<Value>(d).ok())
    {
        out["default"] = default;
    }
    out
}

fn gvk(r: Res) -> Value {
    json!({"group": r.group, "version": r.version, "kind": r.kind})
}

fn struct_value(id: TypeId, form: Form) -> Value {
    let of = Schema::get().of(id);
    let fields: Map<String, Value> = of
        .fields
        .iter()
        .map(|f| (f.name.to_owned(), field_value(f, form)))
        .collect();
    let required: Vec<&str> = of
        .fields
        .iter()
        .filter(|f| f.required)
        .map(|f| f.name)
        .collect();
    let mut out = json!({"type": "object", "properties": fields});
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    let shape = |r: &Res| Schema::get().kind(r.group, r.version, r.kind) == Some(id);
    if let Some(r) = kinds::written().find(shape) {
        out["x-kubernetes-group-version-kind"] = json!([gvk(r)]);
    }
    out
}

/// A structure and everything it is made of.
fn closure(id: TypeId, found: &mut BTreeSet<u16>) {
    if !found.insert(id.index()) {
        return;
    }
    for f in &Schema::get().of(id).fields {
        let mut ty = &f.ty;
        while let Type::List(inner) | Type::Map(inner) = ty {
            ty = inner;
        }
        if let Type::Struct(inner) = ty {
            closure(*inner, found);
        }
    }
}

fn models(kinds: &[Res], form: Form) -> Map<String, Value> {
    let mut found = BTreeSet::new();
    for r in kinds {
        if let Some(id) = Schema::get().kind(r.group, r.version, r.kind) {
            closure(id, &mut found);
        }
    }
    // Custom resources refer to metadata, whatever else is in the document.
    for name in ["meta/v1.DeleteOptions", "meta/v1.ObjectMeta"] {
        if let Some(id) = Schema::get().named(name) {
            closure(id, &mut found);
        }
    }
    let all = found.into_iter().map(TypeId::from_index);
    all.map(|id| (model(Schema::get().of(id).name), struct_value(id, form)))
        .collect()
}

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

fn paths(r: Res, form: Form, out: &mut Map<String, Value>) {
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

fn info() -> Value {
    let (major, minor) = super::http::KUBERNETES;
    json!({"title": "Kubernetes", "version": format!("v{major}.{minor}.0")})
}

/// Version 2, everything.
pub fn v2(customs: &[Res]) -> Value {
    let mut all = Map::new();
    for r in kinds::written().chain(customs.iter().copied()) {
        paths(r, Form::V2, &mut all);
    }
    let mut models = models(&kinds::written().collect::<Vec<_>>(), Form::V2);
    models.extend(customs.iter().copied().map(|r| custom::model(r, Form::V2)));
    json!({"swagger": "2.0", "info": info(), "paths": all, "definitions": models})
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// Version 3: which documents there are.
pub fn v3_index(customs: &[Res]) -> Value {
    let mut out = Map::new();
    for r in kinds::written().chain(customs.iter().copied()) {
        let path = path_of(r.group, r.version);
        let own: Vec<Res> = of_path(&path, customs);
        // Clients keep a document as long as its address stays.
        let (version, print) = (env!("CARGO_PKG_VERSION"), fingerprint(&own));
        let url = format!("/openapi/v3/{path}?hash={version}-{print}");
        out.entry(path)
            .or_insert_with(|| json!({"serverRelativeURL": url}));
    }
    json!({"paths": out})
}

fn of_path(path: &str, customs: &[Res]) -> Vec<Res> {
    let all = kinds::written().chain(customs.iter().copied());
    all.filter(|r| path_of(r.group, r.version) == path)
        .collect()
}

/// Version 3 of a group version (`apis/apps/v1`).
pub fn v3(path: &str, customs: &[Res]) -> Option<Value> {
    let own = of_path(path, customs);
    if own.is_empty() {
        return None;
    }
    let mut all = Map::new();
    for r in &own {
        paths(r, Form::V3, &mut all);
    }
    let mut schemas = models(&own, Form::V3);
    let customs = own.iter().filter(|r| r.custom.is_some());
    schemas.extend(customs.copied().map(|r| custom::model(r, Form::V3)));
    Some(json!({"openapi": "3.0.0", "info": info(), "paths": all,
                "components": {"schemas": schemas}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(v: &Value, models: &Value) {
            match v {
                Value::Object(m) => {
                    if let Some(r) = m.get("$ref").and_then(Value::as_str) {
                        let name = r.rsplit('/').next().unwrap();
                        assert!(!models[name].is_null(), "{r}");
                    }
                    m.values().for_each(|v| check(v, models));
                }
                Value::Array(a) => a.iter().for_each(|v| check(v, models)),
                _ => {}
            }
        }
        let doc = v2(&[]);
        check(&doc, &doc["definitions"]);
        for path in v3_index(&[])["paths"].as_object().unwrap().keys() {
            let doc = v3(path, &[]).unwrap();
            check(&doc, &doc["components"]["schemas"]);
        }
        let pod = &doc["definitions"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    }
}
