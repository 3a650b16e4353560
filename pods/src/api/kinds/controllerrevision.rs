//! `ControllerRevision`: a template as it was, kept by StatefulSets and DaemonSets.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::Faults;
use crate::store::Object;

/// `apps/v1` `ControllerRevision`.
pub static CONTROLLER_REVISION: Resource = Resource {
    group: "apps",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    kind: "ControllerRevision",
    columns: &[
        Column::text("Name"),
        Column::text("Controller"),
        Column::int("Revision"),
        Column::text("Age"),
    ],
    row,
    validate: |revision, faults| faults.not_negative("revision", &revision["revision"]),
    validate_update: |old: &Value, new: &Value, faults: &mut Faults| {
        faults.immutable("data", &old["data"], &new["data"]);
    },
    ..Resource::BASE
};

fn row(o: &Object) -> Vec<Value> {
    let controller = o.controller().map_or("<none>".to_owned(), |c| {
        let version = c["apiVersion"].as_str().unwrap_or_default();
        let kind = c["kind"].as_str().unwrap_or_default().to_lowercase();
        let kind = match version.rsplit_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind,
        };
        format!("{kind}/{}", c["name"].as_str().unwrap_or_default())
    });
    vec![
        json!(o.name()),
        json!(controller),
        json!(o.int_at("/revision").unwrap_or(0)),
        json!(age(o.at("/metadata/creationTimestamp"))),
    ]
}
