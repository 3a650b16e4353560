//! Jobs while the clock is set, and over the nights when summer time begins and ends: each time has
//! one, and none has two.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use proptest::prelude::*;
use rrun_tests::{Need, require};
use serde_json::json;

use super::schedule::{self, Schedule};
use super::tests::{at, cron, finish, step};

/// A CronJob with what it started, in order.
struct World {
    cron: CronJob,
    jobs: Vec<Job>,
    started: Vec<String>,
}

impl World {
    fn new(line: &str, zone: &str, now: Timestamp) -> Self {
        let mut cron = cron(json!({"schedule": line, "timeZone": zone}));
        cron.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        let (jobs, started) = (Vec::new(), Vec::new());
        Self {
            cron,
            jobs,
            started,
        }
    }

    fn names(&self) -> Vec<String> {
        let names = self.jobs.iter().map(|j| j.metadata.name.clone().unwrap());
        names.collect()
    }

    fn look(&mut self, now: Timestamp) {
        let before = self.names();
        step(&mut self.cron, &mut self.jobs, now, 0);
        let mut new = self.names();
        new.retain(|name| !before.contains(name));
        self.started.extend(new);
    }

    /// The instant that the last job is for.
    fn last(&self) -> Option<Timestamp> {
        let minute = self.started.last()?.rsplit('-').next()?;
        Timestamp::from_second(minute.parse::<i64>().ok()? * 60).ok()
    }
}

#[test]
fn every_hour_of_the_nights_of_summer_time_has_its_job() {
    require!(Need::Path("/usr/share/zoneinfo/Europe/Berlin"));
    let nights = [
        ("Europe/Berlin", "2026-03-28T12:00:00Z", 1),
        ("Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ("America/New_York", "2026-03-07T12:00:00Z", 1),
        ("America/New_York", "2026-10-31T12:00:00Z", 2),
    ];
    for (zone, from, nightly) in nights {
        for (line, count) in [("30 * * * *", 48), ("30 2 * * *", nightly)] {
            let mut world = World::new(line, zone, at(from));
            for tens in 1..=48 * 6 {
                world.look(at(from) + SignedDuration::from_mins(tens * 10));
                finish(&mut world.jobs, "Complete", at(from));
            }
            assert_eq!(world.started.len(), count, "{line} in {zone} after {from}");
        }
    }
}

#[test]
fn a_clock_that_was_years_ahead_does_not_hold_up_the_jobs() {
    let mut world = World::new("0 * * * *", "UTC", at("2026-11-21T10:30:00Z"));
    world.look(at("2036-01-01T00:00:00Z"));
    for now in ["10:40", "10:59", "11:00", "11:00", "12:01"] {
        world.look(at(&format!("2026-11-21T{now}:00Z")));
    }
    assert_eq!(world.started.len(), 3, "{:?}", world.started);
    assert_eq!(world.last(), Some(at("2026-11-21T12:00:00Z")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_clock_that_is_set_loses_no_job_and_repeats_none(
        line in prop_oneof![Just("*/20 * * * *"), Just("30 2 * * *"), Just("0 * * * *"), Just("15 1,2,3 * * *")],
        zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("America/St_Johns"), Just("Australia/Lord_Howe")],
        from in prop_oneof![Just("2026-03-28T18:00:00Z"), Just("2026-10-24T18:00:00Z"), Just("2026-10-03T10:00:00Z")],
        steps in proptest::collection::vec((-9000..9000_i64, any::<bool>()), 0..30)
    ) {
        // Without the zones, the test of the nights says that it skips.
        let Ok(rules) = schedule::zone(Some(zone)) else { return Ok(()) };
        let mut world = World::new(line, zone, at(from));
        let (mut now, mut latest) = (at(from), at(from));
        for (jump, ends) in steps {
            // As far back as the latest time less what counts as wrong.
            let earliest = latest - SignedDuration::from_secs(super::FAR_AHEAD - 60);
            now = (now + SignedDuration::from_secs(jump)).max(earliest);
            latest = latest.max(now);
            world.look(now);
            prop_assert!(world.last().is_none_or(|last| last <= latest));
            if ends {
                finish(&mut world.jobs, "Complete", now);
            }
        }
        let mut all = world.started.clone();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), world.started.len(), "twice: {:?}", world.started);
        let schedule: Schedule = line.parse().unwrap();
        let next = schedule.next(latest, &rules).unwrap();
        world.look(next);
        prop_assert_eq!(world.last(), Some(next));
    }
}
