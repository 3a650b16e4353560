//! Jobs and CronJobs.

use serde_json::Value;

use super::deployment::{conditions, template};
use super::{Page, pairs, shown, text, when};
use crate::api::kinds::job_duration;

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Adds the Job's lines.
pub fn describe(page: &mut Page, job: &Value) {
    let (spec, status) = (&job["spec"], &job["status"]);
    page.field(
        0,
        "Selector",
        pairs(&spec["selector"]["matchLabels"], "=").join(","),
    );
    let owners = job["metadata"]["ownerReferences"].as_array();
    if let Some(owner) = owners
        .into_iter()
        .flatten()
        .find(|o| o["controller"] == true)
    {
        let name = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
        page.field(0, "Controlled By", name);
    }
    page.field(0, "Parallelism", shown(&spec["parallelism"]));
    page.field(
        0,
        "Completions",
        shown(&spec["completions"]).replace("<none>", "<unset>"),
    );
    page.field(0, "Completion Mode", shown(&spec["completionMode"]));
    page.field(0, "Suspend", shown(&spec["suspend"]));
    page.field(0, "Backoff Limit", shown(&spec["backoffLimit"]));
    for (name, field) in [
        ("Start Time", "startTime"),
        ("Completed At", "completionTime"),
    ] {
        if status[field].is_string() {
            page.field(0, name, when(text(status, &format!("/{field}"))));
        }
    }
    let took = job_duration(job);
    if !took.is_empty() {
        page.field(0, "Duration", took);
    }
    if spec["activeDeadlineSeconds"].is_i64() {
        page.field(
            0,
            "Active Deadline Seconds",
            format!("{}s", spec["activeDeadlineSeconds"]),
        );
    }
    let counts = [
        ("active", "Active"),
        ("succeeded", "Succeeded"),
        ("failed", "Failed"),
    ];
    let ready = format!(" ({} Ready)", number(&status["ready"]));
    let parts = counts.map(|(field, word)| {
        let extra = if field == "active" {
            ready.as_str()
        } else {
            ""
        };
        format!("{} {word}{extra}", number(&status[field]))
    });
    page.field(0, "Pods Statuses", parts.join(" / "));
    for (name, field) in [
        ("Completed Indexes", "completedIndexes"),
        ("Failed Indexes", "failedIndexes"),
    ] {
        if status[field].is_string() {
            page.field(0, name, shown(&status[field]));
        }
    }
    template(page, &spec["template"]);
    conditions(page, &status["conditions"]);
}

/// Adds the CronJob's lines.
pub fn describe_cron(page: &mut Page, cron: &Value) {
    let (spec, status) = (&cron["spec"], &cron["status"]);
    page.field(0, "Schedule", shown(&spec["schedule"]));
    page.field(
        0,
        "Time Zone",
        shown(&spec["timeZone"]).replace("<none>", "<unset>"),
    );
    page.field(0, "Concurrency Policy", shown(&spec["concurrencyPolicy"]));
    page.field(0, "Suspend", shown(&spec["suspend"]));
    page.field(
        0,
        "Successful Job History Limit",
        shown(&spec["successfulJobsHistoryLimit"]),
    );
    page.field(
        0,
        "Failed Job History Limit",
        shown(&spec["failedJobsHistoryLimit"]),
    );
    let deadline = match spec["startingDeadlineSeconds"].as_i64() {
        Some(seconds) => format!("{seconds}s"),
        None => "<unset>".to_owned(),
    };
    page.field(0, "Starting Deadline Seconds", deadline);
    let job = &spec["jobTemplate"]["spec"];
    page.field(0, "Parallelism", shown(&job["parallelism"]));
    page.field(
        0,
        "Completions",
        shown(&job["completions"]).replace("<none>", "<unset>"),
    );
    template(page, &job["template"]);
    let last = match text(status, "/lastScheduleTime") {
        "" => "<unset>".to_owned(),
        time => when(time),
    };
    page.field(0, "Last Schedule Time", last);
    let active = status["active"].as_array().into_iter().flatten();
    let active: Vec<String> = active.map(|r| text(r, "/name").to_owned()).collect();
    let active = if active.is_empty() {
        "<none>".to_owned()
    } else {
        active.join(", ")
    };
    page.field(0, "Active Jobs", active);
}
