//! `Event`.

use serde_json::{Value, json};

use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, text};
use crate::store::Object;

/// `v1` `Event`.
pub static EVENT: Resource = Resource {
    plural: "events",
    singular: "event",
    kind: "Event",
    short_names: &["ev"],
    // In memory only: a machine at rest writes nothing.
    durable: false,
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    columns: &[
        Column::text("Last Seen"),
        Column::text("Type"),
        Column::text("Reason"),
        Column::text("Object"),
        Column::wide("Subobject"),
        Column::wide("Source"),
        Column::text("Message"),
        Column::wide("First Seen"),
        Column {
            name: "Count",
            kind: "integer",
            priority: 1,
        },
        Column::wide("Name"),
    ],
    row,
    validate,
    ..Resource::BASE
};

fn validate(event: &Value, faults: &mut Faults) {
    let (own, about) = (
        text(&event["metadata"], "namespace"),
        text(&event["involvedObject"], "namespace"),
    );
    // An event about a cluster-wide object lives in the default namespace.
    if about != own && !(about.is_empty() && own == "default") {
        faults.invalid_str(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        );
    }
}

fn row(o: &Object) -> Vec<Value> {
    let first_of = |fields: &[&str]| {
        let found = fields.iter().map(|f| o.at(f)).find(|v| v.is_string());
        found.map_or_else(|| "<unknown>".into(), age)
    };
    let count = o
        .int_at("/series/count")
        .or(o.int_at("/count"))
        .unwrap_or(1)
        .max(1);
    let about = o.at("/involvedObject");
    let object = format!(
        "{}/{}",
        text(about, "kind").to_lowercase(),
        text(about, "name")
    );
    let source = match (o.str_at("/source/component"), o.str_at("/source/host")) {
        ("", _) => o.str_at("/reportingComponent").to_owned(),
        (c, "") => c.to_owned(),
        (c, h) => format!("{c}, {h}"),
    };
    vec![
        json!(first_of(&[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp"
        ])),
        json!(o.str_at("/type")),
        json!(o.str_at("/reason")),
        json!(object),
        json!(text(about, "fieldPath")),
        json!(source),
        json!(o.str_at("/message").trim()),
        json!(first_of(&[
            "/firstTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp"
        ])),
        json!(count),
        json!(o.name()),
    ]
}
