//! `Job`.

use serde_json::{Value, json};

use super::podspec::{self, default, object};
use super::workload;
use crate::api::resource::Resource;
use crate::api::table::{Column, age, human_duration};
use crate::api::validate::{Faults, items, meta, text};
use crate::controllers::job::indexes;
use crate::store::{Object, Selector};

/// `batch/v1` `Job`.
pub static JOB: Resource = Resource {
    group: "batch",
    plural: "jobs",
    singular: "job",
    kind: "Job",
    categories: &["all"],
    has_status: true,
    generation: true,
    fields: &["status.successful"],
    columns: &[
        Column::text("Name"),
        Column::text("Status"),
        Column::text("Completions"),
        Column::text("Duration"),
        Column::text("Age"),
        Column::wide("Containers"),
        Column::wide("Images"),
        Column::wide("Selector"),
    ],
    row,
    defaults,
    validate,
    validate_update,
    ..Resource::BASE
};

/// Label of a job's pods: the job's uid, which makes the selector its own.
pub const UID: &str = "batch.kubernetes.io/controller-uid";
const NAME: &str = "batch.kubernetes.io/job-name";
const OLD_UID: &str = "controller-uid";
const OLD_NAME: &str = "job-name";

fn defaults(job: &mut Value) {
    let (uid, name) = (
        job["metadata"]["uid"].clone(),
        job["metadata"]["name"].clone(),
    );
    let spec = object(job, "spec");
    self::spec(spec);
    if spec["manualSelector"] != true && uid.is_string() {
        let labels = object(object(&mut spec["template"], "metadata"), "labels");
        for (key, value) in [
            (OLD_UID, &uid),
            (UID, &uid),
            (OLD_NAME, &name),
            (NAME, &name),
        ] {
            default(labels, key, value.clone());
        }
        default(spec, "selector", json!({"matchLabels": {UID: uid}}));
    }
    if let Some(map) = spec.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

/// Defaults of a job's spec, also in a CronJob's template.
pub(super) fn spec(spec: &mut Value) {
    let (completions, parallelism) = (
        spec.get("completions").is_some(),
        spec.get("parallelism").is_some(),
    );
    // Neither said: one of one. Only the parallelism said: a queue whose end is its own to know.
    if !completions && !parallelism {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let limit = if spec["backoffLimitPerIndex"].is_null() {
        6
    } else {
        i32::MAX
    };
    default(spec, "backoffLimit", limit);
    if spec["podFailurePolicy"].is_object() {
        default(spec, "podReplacementPolicy", "Failed");
        for rule in podspec::each(&mut spec["podFailurePolicy"], "rules") {
            for pattern in podspec::each(rule, "onPodConditions") {
                default(pattern, "status", "True");
            }
        }
    }
    default(spec, "podReplacementPolicy", "TerminatingOrFailed");
    podspec::template(&mut spec["template"]);
    if let Some(map) = spec.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

fn validate(job: &Value, faults: &mut Faults) {
    let s = &job["spec"];
    if s["selector"].is_null() {
        faults.required("spec.selector", "");
    }
    meta::selector(&s["selector"], "spec.selector", faults);
    let labels = &s["template"]["metadata"]["labels"];
    if let Ok(Some(selector)) = Selector::from_label_selector(&s["selector"])
        && !selector.matches_labels(Some(labels))
    {
        faults.invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        );
    }
    let uid = &job["metadata"]["uid"];
    if s["manualSelector"] != true && uid.is_string() && labels[UID] != *uid {
        let detail = format!("must be '{}'", uid.as_str().unwrap_or_default());
        faults.invalid(
            format!("spec.template.metadata.labels[{UID}]"),
            &labels[UID],
            detail,
        );
    }
    spec_faults(s, "spec", faults);
}

/// Faults of a job's spec at a path, also in a CronJob's template.
pub(super) fn spec_faults(s: &Value, path: &str, faults: &mut Faults) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        faults.not_negative(&format!("{path}.{field}"), &s[field]);
    }
    mode(s, path, faults);
    podspec::template_faults(&s["template"], &format!("{path}.template"), faults);
    let at = format!("{path}.template.spec.restartPolicy");
    match text(&s["template"]["spec"], "restartPolicy") {
        "OnFailure" | "Never" => {}
        "" => faults.required(at, "valid values: \"OnFailure\", \"Never\""),
        other => faults.unsupported(at, other, &["OnFailure", "Never"]),
    }
    let known = ["Failed", "TerminatingOrFailed"];
    faults.one_of(
        &format!("{path}.podReplacementPolicy"),
        &s["podReplacementPolicy"],
        &known,
    );
    failure_policy(s, path, faults);
    success_policy(s, path, faults);
}

fn mode(s: &Value, path: &str, faults: &mut Faults) {
    let indexed = text(s, "completionMode") == "Indexed";
    let known = ["Indexed", "NonIndexed"];
    faults.one_of(
        &format!("{path}.completionMode"),
        &s["completionMode"],
        &known,
    );
    if indexed && s["completions"].is_null() {
        faults.required(
            format!("{path}.completions"),
            "when completion mode is Indexed",
        );
    }
    if indexed && s["parallelism"].as_i64().is_some_and(|n| n > 100_000) {
        let detail = "must be less than or equal to 100000 when completion mode is Indexed";
        faults.invalid(format!("{path}.parallelism"), &s["parallelism"], detail);
    }
    if !indexed {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if !s[field].is_null() {
                faults.invalid(
                    format!("{path}.{field}"),
                    &s[field],
                    "requires indexed completion mode",
                );
            }
        }
    }
    if !s["maxFailedIndexes"].is_null() && s["backoffLimitPerIndex"].is_null() {
        let detail = "when maxFailedIndexes is specified";
        faults.required(format!("{path}.backoffLimitPerIndex"), detail);
    }
}

fn failure_policy(s: &Value, path: &str, faults: &mut Faults) {
    let policy = &s["podFailurePolicy"];
    if policy.is_null() {
        return;
    }
    if text(&s["template"]["spec"], "restartPolicy") != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        let restart = &s["template"]["spec"]["restartPolicy"];
        faults.invalid(
            format!("{path}.template.spec.restartPolicy"),
            restart,
            detail,
        );
    }
    for (i, rule) in items(&policy["rules"]) {
        failure_rule(rule, &format!("{path}.podFailurePolicy.rules[{i}]"), faults);
    }
}

fn failure_rule(rule: &Value, path: &str, faults: &mut Faults) {
    let known = ["Count", "FailIndex", "FailJob", "Ignore"];
    match text(rule, "action") {
        "" => faults.required(
            format!("{path}.action"),
            "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
        ),
        _ => faults.one_of(&format!("{path}.action"), &rule["action"], &known),
    }
    let codes = &rule["onExitCodes"];
    let conditions = items(&rule["onPodConditions"]).next().is_some();
    match (codes.is_null(), conditions) {
        (true, false) => {
            let detail = "specifying one of OnExitCodes and OnPodConditions is required";
            faults.invalid(path, rule, detail);
        }
        (false, true) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            faults.invalid(path, rule, detail);
        }
        _ => {}
    }
    if !codes.is_null() {
        exit_codes(codes, &format!("{path}.onExitCodes"), faults);
    }
}

fn exit_codes(codes: &Value, path: &str, faults: &mut Faults) {
    let operators = ["In", "NotIn"];
    faults.one_of(&format!("{path}.operator"), &codes["operator"], &operators);
    if items(&codes["values"]).next().is_none() {
        let detail = "at least one value is required";
        faults.invalid(format!("{path}.values"), &codes["values"], detail);
    }
    for (k, value) in items(&codes["values"]) {
        if value == 0 && text(codes, "operator") == "In" {
            let at = format!("{path}.values[{k}]");
            faults.invalid(at, value, "must not be 0 for the In operator");
        }
    }
}

fn success_policy(s: &Value, path: &str, faults: &mut Faults) {
    let policy = &s["successPolicy"];
    if policy.is_null() {
        return;
    }
    if text(s, "completionMode") != "Indexed" {
        faults.invalid(
            format!("{path}.successPolicy"),
            policy,
            "requires indexed completion mode",
        );
    }
    for (i, rule) in items(&policy["rules"]) {
        let path = format!("{path}.successPolicy.rules[{i}]");
        let list = &rule["succeededIndexes"];
        if list.is_null() && rule["succeededCount"].is_null() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            faults.required(&path, detail);
        }
        if list.as_str().is_some_and(|t| indexes::parse(t).is_none()) {
            let detail = "error parsing succeededIndexes: want numbers and ranges such as 1,3-5";
            faults.invalid(format!("{path}.succeededIndexes"), list, detail);
        }
    }
}

fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    let (was, is) = (&old["spec"], &new["spec"]);
    let elastic = text(is, "completionMode") == "Indexed"
        && is["completions"] == is["parallelism"]
        && is["completions"].is_i64();
    if was["completions"] != is["completions"] && !elastic {
        faults.immutable("spec.completions", &was["completions"], &is["completions"]);
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "successPolicy",
        "managedBy",
    ] {
        faults.immutable(&format!("spec.{field}"), &was[field], &is[field]);
    }
    // A job that waits may still be moved to other nodes.
    let fixed = |spec: &Value| {
        let mut template = spec["template"].clone();
        if was["suspend"] == true && old["status"]["startTime"].is_null() {
            template["metadata"] = Value::Null;
            for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                template["spec"][field] = Value::Null;
            }
        }
        template
    };
    faults.immutable("spec.template", &fixed(was), &fixed(is));
}

/// The state of a job in one word.
pub fn state(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        let mut all = items(&job["status"]["conditions"]);
        all.any(|(_, c)| c["type"] == kind && c["status"] == "True")
    };
    let words = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let first = words
        .iter()
        .find(|(kind, _)| holds(kind))
        .map(|(_, word)| *word);
    match first {
        Some(word) => word,
        None if !job["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        None => "Running",
    }
}

/// How long a job ran, or runs; empty before it starts.
pub fn duration(job: &Value) -> String {
    let time = |field: &str| {
        let at = job["status"][field].as_str()?;
        at.parse::<jiff::Timestamp>()
            .ok()
            .map(jiff::Timestamp::as_second)
    };
    let Some(start) = time("startTime") else {
        return String::new();
    };
    let end = time("completionTime").unwrap_or_else(|| jiff::Timestamp::now().as_second());
    human_duration(end - start)
}

fn row(o: &Object) -> Vec<Value> {
    let spec = o.at("/spec");
    let succeeded = o.int_at("/status/succeeded").unwrap_or(0);
    let parallelism = o.int_at("/spec/parallelism").unwrap_or(1);
    let completions = match o.int_at("/spec/completions") {
        Some(all) => format!("{succeeded}/{all}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let [containers, images, selector] = workload::wide(spec);
    vec![
        json!(o.name()),
        json!(state(o.value())),
        json!(completions),
        json!(duration(o.value())),
        json!(age(o.at("/metadata/creationTimestamp"))),
        containers,
        images,
        selector,
    ]
}
