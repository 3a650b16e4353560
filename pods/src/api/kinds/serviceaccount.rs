//! `ServiceAccount`.

use serde_json::{Value, json};

use crate::api::resource::{Resource, Subresource};
use crate::api::table::{Column, age};
use crate::store::Object;

/// `v1` `ServiceAccount`.
pub static SERVICE_ACCOUNT: Resource = Resource {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    returns_deleted: true,
    extra: &[Subresource::of(
        "token",
        &["create"],
        "authentication.k8s.io",
        "v1",
        "TokenRequest",
    )],
    columns: &[
        Column::text("Name"),
        Column::int("Secrets"),
        Column::text("Age"),
    ],
    row,
    ..Resource::BASE
};

fn row(o: &Object) -> Vec<Value> {
    let secrets = o.at("/secrets").as_array().map_or(0, Vec::len);
    vec![
        json!(o.name()),
        json!(secrets),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
