//! `Capsule`: what a container that failed left. The node agent keeps them; they are read alone.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::store::Object;

/// `rrun.io/v1` `Capsule`.
pub static CAPSULE: Resource = Resource {
    group: "rrun.io",
    plural: "capsules",
    singular: "capsule",
    kind: "Capsule",
    measured: true,
    columns: &[
        Column::text("Name"),
        Column::text("Pod"),
        Column::text("Container"),
        Column::int("Restarts"),
        Column::int("Exit Code"),
        Column::text("Reason"),
        Column::text("Age"),
    ],
    row,
    ..Resource::BASE
};

fn row(o: &Object) -> Vec<Value> {
    vec![
        json!(o.name()),
        o.at("/pod/name").clone(),
        o.at("/container").clone(),
        o.at("/restarts").clone(),
        o.at("/exitCode").clone(),
        o.at("/reason").clone(),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
