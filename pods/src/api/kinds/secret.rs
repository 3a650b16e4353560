//! `Secret`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::configmap::{data_faults, immutable};
use super::podspec::{default, object};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, text};
use crate::store::Object;

/// `v1` `Secret`.
pub static SECRET: Resource = Resource {
    plural: "secrets",
    singular: "secret",
    kind: "Secret",
    fields: &["type"],
    columns: &[
        Column::text("Name"),
        Column::text("Type"),
        Column::int("Data"),
        Column::text("Age"),
    ],
    row,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

/// Keys that a type promises.
const REQUIRED: &[(&str, &str)] = &[
    ("kubernetes.io/dockercfg", ".dockercfg"),
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ("kubernetes.io/ssh-auth", "ssh-privatekey"),
    ("kubernetes.io/tls", "tls.crt"),
    ("kubernetes.io/tls", "tls.key"),
];

fn defaults(secret: &mut Value) {
    default(secret, "type", "Opaque");
    // Written only: what is read is the encoded form.
    let plain = secret.as_object_mut().and_then(|m| m.remove("stringData"));
    for (key, value) in plain
        .as_ref()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let encoded = BASE64.encode(value.as_str().unwrap_or_default());
        object(secret, "data")[key] = json!(encoded);
    }
}

fn validate(secret: &Value, faults: &mut Faults) {
    data_faults(secret, &["data"], faults);
    for (_, key) in REQUIRED
        .iter()
        .filter(|(ty, _)| *ty == text(secret, "type"))
    {
        if secret["data"][*key].is_null() {
            faults.required(format!("data[{key}]"), "");
        }
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    faults.immutable("type", &old["type"], &new["type"]);
    immutable(old, new, &["data"], faults);
}

fn row(o: &Object) -> Vec<Value> {
    let data = o.at("/data").as_object().map_or(0, serde_json::Map::len);
    let at = age(o.at("/metadata/creationTimestamp"));
    vec![
        json!(o.name()),
        json!(o.str_at("/type")),
        json!(data),
        json!(at),
    ]
}
