//! CronJob: a Job at each time of a schedule.

#[cfg(test)]
mod clock_tests;
pub mod schedule;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schedule::Schedule;

use super::objects::{is_controlled_by, owner_reference};

/// Annotation of a job: the time that it is for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// A clock that is set back by less than this goes through times that had their jobs, and they get no
/// others. By more, it was wrong when they did: in a year that has yet to come, for which nobody waits.
const FAR_AHEAD: i64 = 3 * 3600;

/// What to do, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Jobs that go: replaced, or too old.
    pub delete: Vec<String>,
    /// The job to start, and the time that it is for.
    pub start: Option<(Timestamp, Box<Job>)>,
    /// The status, where it differs. Written last: a start that was cut off is made again, under
    /// the same name.
    pub status: Option<CronJobStatus>,
    /// What to tell people: whether it is good, reason, message.
    pub events: Vec<(bool, &'static str, String)>,
    /// Seconds to the next time.
    pub again_after: Option<i64>,
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// `Some(true)` where the job is complete, `Some(false)` where it failed.
fn ended(job: &Job) -> Option<bool> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let holds = |kind: &str| {
        conditions
            .iter()
            .any(|c| c.type_ == kind && c.status == "True")
    };
    if holds("Complete") {
        Some(true)
    } else {
        holds("Failed").then_some(false)
    }
}

/// Compares what `cron` wants with the jobs of its namespace.
pub fn plan(cron: &CronJob, jobs: &[Job], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let spec = &cron.spec;
    let uid = cron.metadata.uid.as_deref().unwrap_or_default();
    let mine: Vec<&Job> = jobs
        .iter()
        .filter(|j| is_controlled_by(&j.metadata, uid))
        .collect();
    let mut status = cron.status.clone().unwrap_or_default();
    let mut active: Vec<&Job> = mine
        .iter()
        .copied()
        .filter(|j| ended(j).is_none())
        .collect();
    active.sort_by_key(|j| name(&j.metadata));
    let best = mine.iter().filter(|j| ended(j) == Some(true));
    let best = best
        .filter_map(|j| j.status.as_ref()?.completion_time.clone())
        .max_by_key(|t| t.0);
    if best.as_ref().map(|t| t.0) > status.last_successful_time.as_ref().map(|t| t.0) {
        status.last_successful_time = best;
    }
    history(
        &mine,
        true,
        spec.successful_jobs_history_limit.unwrap_or(3),
        &mut plan,
    );
    history(
        &mine,
        false,
        spec.failed_jobs_history_limit.unwrap_or(1),
        &mut plan,
    );
    if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        due(cron, &mine, &mut active, &mut status, now, &mut plan);
    }
    let mut references: Vec<ObjectReference> = active.iter().map(|j| reference(j)).collect();
    if let Some((_, job)) = &plan.start {
        let known = references.iter().any(|r| r.name == job.metadata.name);
        if !known {
            references.push(reference(job));
        }
    }
    status.active = Some(references).filter(|r| !r.is_empty());
    plan.status = (cron.status.clone().unwrap_or_default() != status).then_some(status);
    plan
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: None,
        ..ObjectReference::default()
    }
}

/// Removes the oldest of the jobs that ended so.
fn history(mine: &[&Job], good: bool, keep: i32, plan: &mut Plan) {
    let mut over: Vec<&&Job> = mine.iter().filter(|j| ended(j) == Some(good)).collect();
    over.sort_by_key(|j| {
        let start = j
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .map(|t| t.0);
        (start, name(&j.metadata))
    });
    let excess = over
        .len()
        .saturating_sub(usize::try_from(keep).unwrap_or(0));
    let gone = over
        .iter()
        .take(excess)
        .filter(|j| j.metadata.deletion_timestamp.is_none());
    plan.delete
        .extend(gone.map(|j| name(&j.metadata).to_owned()));
}

/// Starts what is due.
fn due(
    cron: &CronJob,
    mine: &[&Job],
    active: &mut Vec<&Job>,
    status: &mut CronJobStatus,
    now: Timestamp,
    plan: &mut Plan,
) {
    let spec = &cron.spec;
    let (schedule, zone) = match rule(cron) {
        Ok(rule) => rule,
        Err((reason, message)) => return plan.events.push((false, reason, message)),
    };
    let made = cron
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |t| t.0);
    let mut last = status.last_schedule_time.as_ref().map_or(made, |t| t.0);
    if last.as_second() - now.as_second() > FAR_AHEAD {
        last = now;
        status.last_schedule_time = Some(Time(now));
    }
    let deadline = spec.starting_deadline_seconds;
    let earliest = deadline.map_or(last, |d| {
        last.max(Timestamp::from_second(now.as_second() - d).unwrap_or(last))
    });
    let soon = schedule
        .next(now, &zone)
        .map(|t| t.as_second() - now.as_second());
    plan.again_after = soon.map(|s| s.max(1));
    let Some((at, _)) = schedule.latest(earliest, now, &zone) else {
        return;
    };
    let job = new_job(cron, at);
    // Started already; only the status was not written.
    if mine.iter().any(|j| j.metadata.name == job.metadata.name) {
        status.last_schedule_time = Some(Time(at));
        return;
    }
    if !make_room(cron, active, plan) {
        return;
    }
    status.last_schedule_time = Some(Time(at));
    plan.start = Some((at, Box::new(job)));
}

/// When to start, and by which clock; or why that cannot be told.
fn rule(cron: &CronJob) -> Result<(Schedule, TimeZone), (&'static str, String)> {
    let spec = &cron.spec;
    let schedule = spec.schedule.parse().map_err(|why| {
        let message = format!("unparseable schedule: {:?} : {why}", spec.schedule);
        ("UnparseableSchedule", message)
    })?;
    let zone = schedule::zone(spec.time_zone.as_deref())
        .map_err(|why| ("UnknownTimeZone", format!("invalid timeZone: {why}")))?;
    Ok((schedule, zone))
}

/// What the concurrency policy has of jobs that still run. False: they go on, and none is started.
fn make_room(cron: &CronJob, active: &mut Vec<&Job>, plan: &mut Plan) -> bool {
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push((true, "JobAlreadyActive", why.to_owned()));
            return false;
        }
        Some("Replace") => {
            let going = active
                .drain(..)
                .filter(|j| j.metadata.deletion_timestamp.is_none());
            plan.delete
                .extend(going.map(|j| name(&j.metadata).to_owned()));
        }
        _ => {}
    }
    true
}

/// The job for a time: the same each time it is asked for.
fn new_job(cron: &CronJob, at: Timestamp) -> Job {
    let spec = &cron.spec;
    let template = spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let zone = schedule::zone(spec.time_zone.as_deref());
    let shown = zone.map_or_else(
        |_| at.to_string(),
        |zone| {
            at.to_zoned(zone)
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
        },
    );
    let shown = shown
        .strip_suffix("+00:00")
        .map_or(shown.clone(), |t| format!("{t}Z"));
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), shown);
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", name(&cron.metadata), at.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference("batch/v1", "CronJob", &cron.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    pub(super) fn cron(extra: Value) -> CronJob {
        let mut cron = json!({
            "metadata": {"name": "tick", "namespace": "default", "uid": "cron-1", "creationTimestamp": "2026-11-21T10:00:30Z"},
            "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow", "timeZone": "UTC",
                     "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
                     "jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}}
        });
        json_patch::merge(&mut cron["spec"], &extra);
        serde_json::from_value(cron).unwrap()
    }

    pub(super) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// One look, carried out; whether anything was written.
    pub(super) fn step(
        cron: &mut CronJob,
        jobs: &mut Vec<Job>,
        now: Timestamp,
        fails: u16,
    ) -> bool {
        let plan = plan(cron, jobs, now);
        let mut writes = 0;
        let mut write = || {
            writes += 1;
            fails >> (writes % 16) & 1 == 0
        };
        for gone in &plan.delete {
            if !write() {
                return true;
            }
            jobs.retain(|j| name(&j.metadata) != gone);
        }
        if let Some((_, mut job)) = plan.start {
            if !write() {
                return true;
            }
            job.status = serde_json::from_value(json!({"startTime": now.to_string()})).unwrap();
            jobs.push(*job);
        }
        if let Some(status) = plan.status
            && write()
        {
            cron.status = Some(status);
        }
        writes > 0
    }

    pub(super) fn finish(jobs: &mut [Job], kind: &str, now: Timestamp) {
        for job in jobs.iter_mut().filter(|j| ended(j).is_none()) {
            job.status = serde_json::from_value(
                json!({"startTime": now.to_string(), "completionTime": now.to_string(),
                "conditions": [{"type": kind, "status": "True"}]}),
            )
            .unwrap();
        }
    }

    #[test]
    fn a_job_starts_at_its_minute_and_once() {
        let (mut cron, mut jobs) = (cron(json!({})), Vec::new());
        assert!(!step(&mut cron, &mut jobs, at("2026-11-21T10:00:40Z"), 0));
        assert_eq!(
            plan(&cron, &jobs, at("2026-11-21T10:00:40Z")).again_after,
            Some(20)
        );
        for _ in 0..3 {
            step(&mut cron, &mut jobs, at("2026-11-21T10:01:00Z"), 0);
        }
        assert_eq!(jobs.len(), 1);
        let annotations = jobs[0].metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations[SCHEDULED], "2026-11-21T10:01:00Z");
        assert_eq!(
            cron.status.as_ref().unwrap().active.as_ref().unwrap().len(),
            1
        );
    }

    #[test]
    fn policies_of_concurrency() {
        for (policy, names) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
            let (mut cron, mut jobs) = (cron(json!({"concurrencyPolicy": policy})), Vec::new());
            for now in ["2026-11-21T10:01:00Z", "2026-11-21T10:02:00Z"] {
                step(&mut cron, &mut jobs, at(now), 0);
            }
            assert_eq!(jobs.len(), names, "{policy}");
            let last = jobs.last().unwrap().metadata.name.clone().unwrap();
            let minute =
                at("2026-11-21T10:02:00Z").as_second() / 60 - i64::from(policy == "Forbid");
            assert_eq!(last, format!("tick-{minute}"));
        }
    }

    #[test]
    fn a_time_that_is_too_long_past_is_left_out() {
        let (mut cron, mut jobs) = (
            cron(json!({"schedule": "0 11 * * *", "startingDeadlineSeconds": 60})),
            Vec::new(),
        );
        step(&mut cron, &mut jobs, at("2026-11-21T11:02:00Z"), 0);
        assert!(jobs.is_empty());
        step(&mut cron, &mut jobs, at("2026-11-22T11:00:30Z"), 0);
        assert_eq!(jobs.len(), 1);
    }

    #[test]
    fn history_keeps_the_newest() {
        let (mut cron, mut jobs) = (cron(json!({})), Vec::new());
        for minute in 1..8 {
            let now = at(&format!("2026-11-21T10:0{minute}:00Z"));
            step(&mut cron, &mut jobs, now, 0);
            finish(
                &mut jobs,
                if minute % 2 == 0 {
                    "Failed"
                } else {
                    "Complete"
                },
                now,
            );
        }
        let now = at("2026-11-21T10:07:30Z");
        while step(&mut cron, &mut jobs, now, 0) {}
        let count = |good| jobs.iter().filter(|j| ended(j) == Some(good)).count();
        assert_eq!((count(true), count(false)), (3, 1));
        assert_eq!(
            cron.status.unwrap().last_successful_time.unwrap().0,
            at("2026-11-21T10:07:00Z")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn cron_jobs_converge_whatever_fails_and_then_write_nothing(
            policy in prop_oneof![Just("Allow"), Just("Forbid"), Just("Replace")],
            steps in proptest::collection::vec((0..200_i64, any::<u16>(), 0..3_u8), 0..10)
        ) {
            let (mut cron, mut jobs) = (cron(json!({"concurrencyPolicy": policy})), Vec::new());
            let mut now = at("2026-11-21T10:00:31Z");
            for (pause, fails, end) in steps {
                now += jiff::SignedDuration::from_secs(pause);
                step(&mut cron, &mut jobs, now, fails);
                match end {
                    0 => finish(&mut jobs, "Complete", now),
                    1 => finish(&mut jobs, "Failed", now),
                    _ => {}
                }
            }
            for _ in 0..4 {
                step(&mut cron, &mut jobs, now, 0);
            }
            prop_assert!(!step(&mut cron, &mut jobs, now, 0));
            let running = jobs.iter().filter(|j| ended(j).is_none()).count();
            prop_assert!(policy == "Allow" || running <= 1);
        }
    }
}
