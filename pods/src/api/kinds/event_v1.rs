//! `events.k8s.io/v1` `Event`: the core group's events with other names for the same fields.

use serde_json::Value;

use super::EVENT;
use crate::api::resource::Resource;
use crate::api::validate::{Faults, text};
use crate::api::versions::{Version, rename};

/// `events.k8s.io/v1` `Event`.
pub static EVENT_V1: Resource = Resource {
    group: "events.k8s.io",
    plural: EVENT.plural,
    singular: EVENT.singular,
    kind: EVENT.kind,
    short_names: EVENT.short_names,
    durable: EVENT.durable,
    fields: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    columns: EVENT.columns,
    version_of: Some(&Version {
        of: &EVENT,
        show: |event| NAMES.iter().for_each(|(new, old)| rename(event, old, new)),
        keep: |event| NAMES.iter().for_each(|(new, old)| rename(event, new, old)),
        fields: &[
            ("regarding.kind", "involvedObject.kind"),
            ("regarding.namespace", "involvedObject.namespace"),
            ("regarding.name", "involvedObject.name"),
            ("regarding.uid", "involvedObject.uid"),
            ("regarding.apiVersion", "involvedObject.apiVersion"),
            (
                "regarding.resourceVersion",
                "involvedObject.resourceVersion",
            ),
            ("regarding.fieldPath", "involvedObject.fieldPath"),
            ("reportingController", "reportingComponent"),
        ],
        own_annotations: &[],
    }),
    validate,
    ..Resource::BASE
};

/// Names of fields here, and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Longest texts, in bytes.
const LIMITS: &[(&str, usize)] = &[
    ("reportingInstance", 128),
    ("action", 128),
    ("reason", 128),
    ("note", 1024),
];

/// The rules of the new names are stricter, but not for events that were made by the old ones.
fn validate(event: &Value, faults: &mut Faults) {
    if event["eventTime"].is_null() && event["deprecatedFirstTimestamp"].is_string() {
        return;
    }
    for field in [
        "eventTime",
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
    ] {
        if text(event, field).is_empty() {
            faults.required(field, "");
        }
    }
    for (field, limit) in LIMITS {
        if text(event, field).len() > *limit {
            faults.invalid(
                *field,
                &event[*field],
                format!("can have at most {limit} characters"),
            );
        }
    }
    if !["Normal", "Warning"].contains(&text(event, "type")) {
        faults.invalid("type", &event["type"], "has invalid value");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_is_lost_between_the_two_names() {
        let old = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "m",
            "reason": "r", "source": {"component": "c"}, "firstTimestamp": "t", "lastTimestamp": "u",
            "count": 2, "type": "Normal", "reportingComponent": "c", "reportingInstance": "i"});
        let version = EVENT_V1.version_of.unwrap();
        let mut new = old.clone();
        (version.show)(&mut new);
        assert_eq!(new["regarding"]["kind"], "Pod");
        assert_eq!(new["note"], "m");
        assert_eq!(new["deprecatedCount"], 2);
        assert!(new["message"].is_null() && new["source"].is_null());
        (version.keep)(&mut new);
        assert_eq!(new, old);
    }
}
