//! OpenAPI of what is served, made from the table of types on demand: nothing of it stays in memory.
//!
//! Version 3 is JSON, one document a group version. Version 2 is one document for all, JSON or the
//! protobuf form of gnostic, which is all that kubectl before 1.27 reads.

mod custom;
mod models;
mod paths;
mod proto;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::custom::fingerprint;
use super::kinds;
use super::resource::Res;
use models::{Form, models};
use paths::paths;

pub use proto::v2 as to_protobuf;

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

/// Version 3 of a group version (`apis/apps/v1`), as JSON text. Models of custom kinds are megabytes as
/// text and ten times as much as trees: there is the tree of one at a time.
pub fn v3(path: &str, customs: &[Res]) -> Option<String> {
    let own = of_path(path, customs);
    if own.is_empty() {
        return None;
    }
    let mut all = Map::new();
    for r in &own {
        paths(r, Form::V3, &mut all);
    }
    let schemas = Value::Object(models(&own, Form::V3)).to_string();
    let (info, all) = (info(), Value::Object(all));
    let mut out =
        format!(r#"{{"openapi":"3.0.0","info":{info},"paths":{all},"components":{{"schemas":"#);
    out.push_str(schemas.strip_suffix('}').unwrap_or(&schemas));
    for r in own.iter().filter(|r| r.custom.is_some()) {
        let (name, model) = custom::model(r, Form::V3);
        // Every document has models of its own before these.
        let _ = write!(out, ",{}:{model}", Value::String(name));
    }
    out.push_str("}}}");
    Some(out)
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
            let doc: Value = serde_json::from_str(&v3(path, &[]).unwrap()).unwrap();
            check(&doc, &doc["components"]["schemas"]);
        }
        let pod = &doc["definitions"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
    }
}
