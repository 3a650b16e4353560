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
        show,
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

/// An event made by the old names says when it happened in those alone. Clients that were made from the
/// documents of this version want `eventTime` (Python's refuses a whole list for one that has none).
fn show(event: &mut Value) {
    for (new, old) in NAMES {
        rename(event, old, new);
    }
    if event["eventTime"].is_null() {
        let made = ["/deprecatedFirstTimestamp", "/metadata/creationTimestamp"];
        let at = made
            .iter()
            .find_map(|at| micro(event.pointer(at)?.as_str()?));
        if let Some(at) = at {
            event["eventTime"] = at.into();
        }
    }
}

/// A time with the microseconds that a MicroTime has.
fn micro(time: &str) -> Option<String> {
    let at: jiff::Timestamp = time.parse().ok()?;
    Some(format!("{at:.6}"))
}

/// Longest texts, in bytes.
const LIMITS: &[(&str, usize)] = &[
    ("reportingInstance", 128),
    ("action", 128),
    ("reason", 128),
    ("note", 1024),
];

/// The rules of the new names are stricter, but not for events that were made by the old ones.
fn validate(event: &Value, faults: &mut Faults) {
    if event["deprecatedFirstTimestamp"].is_string() {
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

    #[test]
    fn every_event_has_a_time_of_its_own() {
        let show = EVENT_V1.version_of.unwrap().show;
        let at = |mut event: Value| {
            show(&mut event);
            event["eventTime"].as_str().unwrap_or_default().to_owned()
        };
        let made = json!({"creationTimestamp": "2026-11-22T01:02:04Z"});
        let old = json!({"metadata": made, "firstTimestamp": "2026-11-22T01:02:03Z"});
        assert_eq!(at(old), "2026-11-22T01:02:03.000000Z");
        let bare = json!({"metadata": made, "eventTime": null});
        assert_eq!(at(bare), "2026-11-22T01:02:04.000000Z");
        let new = json!({"metadata": made, "eventTime": "2026-11-22T01:02:03.123456Z"});
        assert_eq!(at(new), "2026-11-22T01:02:03.123456Z");
    }
}
