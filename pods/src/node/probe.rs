//! Probes: one task per probe of a running container, which tells the worker when the verdict turns.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use rrun_cri_api::v1::{ContainerState, ContainerStatus};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::exec::{Act, Failed, Place, Repeated};
use super::memory::{Memory, every_container};
use super::runtime::Runtime;

/// Probes after a first one run at multiples of this, so that one awakening serves many: of this
/// program, of the runtime, and of the processor.
const GRID: Duration = Duration::from_millis(100);
/// The first probes of containers that were found running are spread over this.
const SPREAD: u64 = 10;
/// Where the multiples begin.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Until it succeeds the others wait; failing restarts.
    Startup,
    /// Failing restarts.
    Liveness,
    /// Failing takes the pod out of its Services.
    Readiness,
}

impl Kind {
    /// As in messages: `startup`, `liveness`, `readiness`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// As in events: `Startup`, `Liveness`, `Readiness`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the container.
    pub name: String,
    /// Its CRI id.
    pub id: String,
    /// Which probe.
    pub kind: Kind,
    /// The verdict after thresholds, where it is new.
    pub verdict: Option<bool>,
    /// A failure to tell as an event.
    pub failure: Option<String>,
}

/// Counts results and applies the thresholds: a pure state machine.
#[derive(Clone, Debug)]
pub struct Tally {
    failures: i32,
    successes: i32,
    failure_threshold: i32,
    success_threshold: i32,
    /// The last verdict told.
    told: Option<bool>,
}

impl Tally {
    /// Thresholds of the probe; `told` is the verdict that holds before the first result.
    pub fn new(probe: &Probe, told: Option<bool>) -> Self {
        Self {
            failures: 0,
            successes: 0,
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            told,
        }
    }

    /// One more result; a verdict where it turns.
    pub fn count(&mut self, good: bool) -> Option<bool> {
        if good {
            self.successes += 1;
            self.failures = 0;
        } else {
            self.failures += 1;
            self.successes = 0;
        }
        let reached = if good {
            self.successes >= self.success_threshold
        } else {
            self.failures >= self.failure_threshold
        };
        if reached && self.told != Some(good) {
            self.told = Some(good);
            return Some(good);
        }
        None
    }

    /// Whether one more success would change nothing.
    fn is_steady(&self) -> bool {
        self.told == Some(true) && self.failures == 0
    }
}

/// The probe tasks of one pod.
pub struct Probers {
    tasks: HashMap<(String, Kind), (String, AbortHandle)>,
    reports: mpsc::UnboundedSender<Report>,
    /// Since when there are any; until they were first tended to, older containers were found.
    since: Option<Timestamp>,
}

impl Probers {
    /// Reports go to `reports`.
    pub fn new(reports: mpsc::UnboundedSender<Report>) -> Self {
        Self {
            tasks: HashMap::new(),
            reports,
            since: Some(Timestamp::now()),
        }
    }

    /// Starts the probes that should run now and stops the others.
    pub fn tend(&mut self, pod: &Pod, runtime: &Runtime, memory: &Memory, cri: &super::cri::Cri) {
        let mut wanted = HashMap::new();
        for container in every_container(pod) {
            let Some(status) = runtime.newest(&container.name) else {
                continue;
            };
            let runs = status.state() == ContainerState::ContainerRunning;
            if !runs || memory.is_hooked(&container) {
                continue;
            }
            let part = memory.part(&container.name);
            let kinds: &[Kind] = if part.started {
                &[Kind::Liveness, Kind::Readiness]
            } else {
                &[Kind::Startup]
            };
            for kind in kinds.iter().filter(|k| k.of(&container).is_some()) {
                let key = (container.name.clone(), *kind);
                wanted.insert(key, (container.clone(), status.clone(), part.ready));
            }
        }
        self.tasks.retain(|key, (id, task)| {
            let keep = wanted
                .get(key)
                .is_some_and(|(_, status, _)| status.id == *id)
                && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        let found = self.since.take();
        for (key, (container, status, ready)) in wanted {
            if self.tasks.contains_key(&key) {
                continue;
            }
            let ip = address(runtime, pod);
            let place = Place {
                cri: cri.clone(),
                id: status.id.clone(),
                container,
                ip,
            };
            let older = |since: Timestamp| i128::from(status.started_at) < since.as_nanosecond();
            let spread = if found.is_some_and(older) {
                spread(&status.id)
            } else {
                Duration::ZERO
            };
            let task = tokio::spawn(watch(
                place,
                key.1,
                (status.clone(), spread),
                ready,
                self.reports.clone(),
            ));
            self.tasks.insert(key, (status.id, task.abort_handle()));
        }
    }

    /// Stops all probes, or those of one container.
    pub fn stop(&mut self, name: Option<&str>) {
        self.tasks.retain(|(of, _), (_, task)| {
            let stop = name.is_none_or(|name| name == of);
            if stop {
                task.abort();
            }
            !stop
        });
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        self.stop(None);
    }
}

/// The address that probes and hooks of the pod use.
pub fn address(runtime: &Runtime, pod: &Pod) -> String {
    let network = runtime.ready_sandbox().and_then(|s| s.network.as_ref());
    let ip = network.map(|n| n.ip.clone()).filter(|ip| !ip.is_empty());
    let host = pod.status.as_ref().and_then(|s| s.host_ip.clone());
    ip.or(host).unwrap_or_else(|| "127.0.0.1".to_owned())
}

async fn watch(
    place: Place,
    kind: Kind,
    (status, spread): (ContainerStatus, Duration),
    ready: bool,
    reports: mpsc::UnboundedSender<Report>,
) {
    let Some(probe) = kind.of(&place.container).cloned() else {
        return;
    };
    let Some(act) = Act::of_probe(&probe) else {
        return;
    };
    let seconds = |value: Option<i32>, default: u64| {
        let value = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
        Duration::from_secs(value.unwrap_or(default))
    };
    let (period, limit) = (
        seconds(probe.period_seconds, 10),
        seconds(probe.timeout_seconds, 1),
    );
    let told = match kind {
        Kind::Readiness => Some(ready),
        Kind::Liveness => Some(true),
        Kind::Startup => None,
    };
    let mut tally = Tally::new(&probe, told);
    let mut schedule = Schedule {
        at: Instant::now() + first_delay(&probe, &status).max(spread),
        period,
        limit,
        leaves: true,
    };
    loop {
        let result = schedule.run(&act, &place, tally.is_steady()).await;
        let (good, failure) = match result {
            Ok(()) => (true, None),
            // What could not be asked is not counted, as the kubelet does.
            Err(Failed::Unknown(why)) => {
                tracing::debug!(
                    container = place.container.name,
                    "{} probe: {why}",
                    kind.name()
                );
                continue;
            }
            Err(Failed::Answer(why)) => (false, Some(why)),
        };
        let verdict = tally.count(good);
        if verdict.is_some() || failure.is_some() {
            let report = Report {
                name: place.container.name.clone(),
                id: place.id.clone(),
                kind,
                verdict,
                failure,
            };
            if reports.send(report).is_err() {
                return;
            }
        }
        // The startup probe is done once it has said yes; a container that is condemned is not
        // asked again.
        if verdict.is_some() && kind != Kind::Readiness {
            return;
        }
    }
}

/// When a probe runs, and where from.
struct Schedule {
    at: Instant,
    period: Duration,
    limit: Duration,
    /// Runs whose success changes nothing are left to the runtime, which tells of a failure; until it
    /// says that it cannot.
    leaves: bool,
}

impl Schedule {
    /// One run; where the probe is `steady`, as many as succeed and the one that does not.
    async fn run(&mut self, act: &Act, place: &Place, steady: bool) -> Result<(), Failed> {
        if self.leaves
            && steady
            && let Act::Exec(command) = act
        {
            let (at, period, limit) = (self.at, self.period, self.limit);
            let repeated = Repeated {
                command,
                at,
                period,
                limit,
            };
            if let Some((failed, begun)) = repeated.failure(place).await {
                self.at = next(begun, period, *ORIGIN);
                if matches!(failed, Failed::Unknown(_)) {
                    // It may come again at once.
                    tokio::time::sleep_until(self.at).await;
                }
                return Err(failed);
            }
            self.leaves = false;
        }
        tokio::time::sleep_until(self.at).await;
        let now = Instant::now();
        // Late by more than a processor is: the machine slept.
        let begun = if now > self.at + GRID { now } else { self.at };
        self.at = next(begun, self.period, *ORIGIN);
        act.run(place, self.limit).await
    }
}

/// When to probe again: a period later, and at a multiple of the grid that is not later.
fn next(begun: Instant, period: Duration, origin: Instant) -> Instant {
    let after = begun + period;
    let beyond = after.duration_since(origin).as_nanos() % GRID.as_nanos();
    after - Duration::from_nanos(u64::try_from(beyond).unwrap_or(0))
}

/// What the first probe of a container that was found running waits: as many as there are would
/// begin at once, and then go on at once, whenever this program starts again.
fn spread(id: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    GRID * u32::try_from(hasher.finish() % SPREAD).unwrap_or(0)
}

/// What is left of the initial delay since the container began.
fn first_delay(probe: &Probe, status: &ContainerStatus) -> Duration {
    let delay = i64::from(probe.initial_delay_seconds.unwrap_or(0)) * 1_000_000_000;
    let age = Timestamp::now().as_nanosecond() - i128::from(status.started_at);
    let left = i128::from(delay) - age;
    Duration::from_nanos(u64::try_from(left).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_go_on_at_multiples_and_keep_their_period() {
        let origin = Instant::now();
        let ms = Duration::from_millis;
        let period = ms(1000);
        let second = next(origin + ms(1234), period, origin);
        assert_eq!(second, origin + ms(2200));
        assert_eq!(next(second, period, origin), origin + ms(3200));
        // Before the origin there are no multiples.
        let early = origin.checked_sub(ms(5030)).unwrap();
        assert_eq!(next(early, period, origin), early + period);
        assert!((0..50).all(|n| spread(&n.to_string()) < ms(1000)));
    }

    #[test]
    fn verdicts_turn_at_their_thresholds_and_are_told_once() {
        let probe = Probe {
            failure_threshold: Some(2),
            success_threshold: Some(2),
            ..Probe::default()
        };
        let mut tally = Tally::new(&probe, Some(false));
        let results = [true, true, true, false, true, false, false, false];
        let told: Vec<_> = results.iter().map(|good| tally.count(*good)).collect();
        let none = None;
        assert_eq!(
            told,
            [none, Some(true), none, none, none, none, Some(false), none]
        );
    }

    #[test]
    fn a_probe_is_steady_where_a_success_changes_nothing() {
        let mut tally = Tally::new(&Probe::default(), Some(true));
        assert!(tally.is_steady());
        assert_eq!(tally.count(false), None);
        assert!(!tally.is_steady(), "a success forgets the failure");
        tally.count(true);
        assert!(tally.is_steady());
        for _ in 0..3 {
            tally.count(false);
        }
        tally.count(true);
        assert!(tally.is_steady(), "it is true again");
        assert!(!Tally::new(&Probe::default(), None).is_steady());
    }
}
