//! `CronJob`.

use serde_json::{Value, json};

use super::podspec::{default, object};
use super::{job, workload};
use crate::api::resource::Resource;
use crate::api::table::{Column, age};
use crate::api::validate::{Faults, items, meta, text};
use crate::controllers::cronjob::schedule::{self, Schedule};
use crate::store::Object;

/// `batch/v1` `CronJob`.
pub static CRON_JOB: Resource = Resource {
    group: "batch",
    plural: "cronjobs",
    singular: "cronjob",
    kind: "CronJob",
    short_names: &["cj"],
    categories: &["all"],
    has_status: true,
    generation: true,
    columns: &[
        Column::text("Name"),
        Column::text("Schedule"),
        Column::text("Timezone"),
        Column::text("Suspend"),
        Column::int("Active"),
        Column::text("Last Schedule"),
        Column::text("Age"),
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row,
    // A job's name is the CronJob's and eleven characters more.
    name_rule: |name| {
        let mut wrong = crate::api::validate::names::subdomain(name);
        if name.len() > 52 {
            wrong.push("must be no more than 52 characters".into());
        }
        wrong
    },
    defaults,
    validate,
    ..Resource::BASE
};

fn defaults(cron: &mut Value) {
    let spec = object(cron, "spec");
    default(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    job::spec(object(object(spec, "jobTemplate"), "spec"));
}

fn validate(cron: &Value, faults: &mut Faults) {
    let spec = &cron["spec"];
    let line = text(spec, "schedule");
    if line.is_empty() {
        faults.required("spec.schedule", "");
    } else if line.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        faults.invalid_str("spec.schedule", line, detail);
    } else if let Err(why) = line.parse::<Schedule>() {
        faults.invalid_str("spec.schedule", line, why);
    }
    if let Some(zone) = spec["timeZone"].as_str() {
        if zone.eq_ignore_ascii_case("local") {
            faults.invalid_str("spec.timeZone", zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
        } else if schedule::zone(Some(zone)).is_err() {
            faults.invalid_str("spec.timeZone", zone, format!("unknown time zone {zone}"));
        }
    }
    let known = ["Allow", "Forbid", "Replace"];
    faults.one_of("spec.concurrencyPolicy", &spec["concurrencyPolicy"], &known);
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        faults.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    let template = &spec["jobTemplate"];
    meta::labels(
        &template["metadata"]["labels"],
        "spec.jobTemplate.metadata.labels",
        faults,
    );
    if template["spec"]["manualSelector"] == true {
        let value = &template["spec"]["manualSelector"];
        faults.unsupported(
            "spec.jobTemplate.spec.manualSelector",
            &value.to_string(),
            &["nil", "false"],
        );
    } else if !template["spec"]["selector"].is_null() {
        let detail = "`selector` will be auto-generated";
        faults.invalid(
            "spec.jobTemplate.spec.selector",
            &template["spec"]["selector"],
            detail,
        );
    }
    job::spec_faults(&template["spec"], "spec.jobTemplate.spec", faults);
}

fn row(o: &Object) -> Vec<Value> {
    let last = match o.at("/status/lastScheduleTime") {
        Value::Null => "<none>".to_owned(),
        at => age(at),
    };
    let [containers, images, _] = workload::wide(o.at("/spec/jobTemplate/spec"));
    let suspended = o.at("/spec/suspend") == true;
    vec![
        json!(o.name()),
        o.at("/spec/schedule").clone(),
        json!(o.at("/spec/timeZone").as_str().unwrap_or("<none>")),
        json!(if suspended { "True" } else { "False" }),
        json!(items(o.at("/status/active")).count()),
        json!(last),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
        json!("<none>"),
    ]
}
