//! `Probe`: a command again and again, until it fails. While it does not, nobody else is woken.

use super::empty;
use crate::command::{Command, Doom};
use crate::container::Caller;
use crate::ops::gone;
use crate::poll::{Key, Timer};
use crate::server::{Answer, Call, Reply, Shim};
use rrun_task_api::Status;
use rrun_task_api::pb::shim::{
    ExecSyncRequest, ExecSyncResponse, ProbeRequest, ProbeResponse, StopProbeRequest,
};
use rrun_task_api::prost::Message;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A run that is later by more than this begins the count anew: the machine slept, or the run before
/// took longer than a period.
const LATE: Duration = Duration::from_millis(100);

/// A command that runs each period, and the call that waits for the first run to fail.
pub struct Probe {
    /// Who asked.
    pub caller: Caller,
    command: Rc<ExecSyncRequest>,
    period: Duration,
    /// When a run is to begin, or was to.
    at: Instant,
    /// The process of the run that is under way.
    running: Option<Key>,
}

impl Probe {
    fn new(caller: Caller, request: ProbeRequest, now: Instant) -> Result<Self, Status> {
        let command = request.command.unwrap_or_default();
        if request.period == 0 {
            return Err(Status::invalid("Probe request without a period"));
        }
        let later = |delay: u64| now.checked_add(Duration::from_nanos(delay));
        let (Some(at), Some(_)) = (later(request.delay), later(request.period)) else {
            return Err(Status::invalid("Probe request for a time that is too far"));
        };
        Ok(Self {
            caller,
            command: Rc::new(command),
            period: Duration::from_nanos(request.period),
            at,
            running: None,
        })
    }

    /// Whether it runs in this container.
    pub fn is_of(&self, container: &str) -> bool {
        self.command.id == container
    }

    /// Notes that a run begins.
    fn begin(&mut self, now: Instant) {
        if now > self.at + LATE {
            self.at = now;
        }
    }

    /// When the next run is to begin.
    fn next(&mut self) -> Instant {
        self.at += self.period;
        self.at
    }
}

impl Shim {
    /// Our own service: Probe.
    pub fn probe(&mut self, call: &Call, request: ProbeRequest) -> Answer {
        let probe = Probe::new(call.caller, request, Instant::now())?;
        self.may_command(&probe.command)?;
        let same = |known: &Probe| {
            known.command.exec_id == probe.command.exec_id && known.is_of(&probe.command.id)
        };
        if self.probes.values().any(same) {
            return Err(super::taken("probe", &probe.command.exec_id));
        }
        let key = self.new_key();
        self.poller.at(probe.at, Timer::ProbeDue(key));
        self.probes.insert(key, probe);
        Ok(Reply::Pending)
    }

    /// Our own service: StopProbe.
    pub fn stop_probe(&mut self, request: &StopProbeRequest) -> Answer {
        self.end_probes(|probe| {
            probe.is_of(&request.id) && probe.command.exec_id == request.exec_id
        });
        empty()
    }

    /// Runs it once more.
    pub fn on_probe_due(&mut self, key: Key) {
        let Some(probe) = self.probes.get_mut(&key) else {
            return;
        };
        probe.begin(Instant::now());
        let request = probe.command.clone();
        let mut command = Command::new(probe.caller);
        command.probe = Some(key);
        match self.begin_command(command, &request) {
            Ok(Some(running)) => {
                if let Some(probe) = self.probes.get_mut(&key) {
                    probe.running = Some(running);
                }
            }
            // A state that ends soon: the next run will show.
            Ok(None) => self.probe_goes_on(key),
            Err(status) => self.probe_ran(key, Err(status)),
        }
    }

    fn probe_goes_on(&mut self, key: Key) {
        if let Some(probe) = self.probes.get_mut(&key) {
            probe.running = None;
            self.poller.at(probe.next(), Timer::ProbeDue(key));
        }
    }

    /// A run has ended, or could not begin.
    pub fn probe_ran(&mut self, key: Key, outcome: Result<ExecSyncResponse, Status>) {
        let good = |run: &ExecSyncResponse| run.exit_status == 0 && !run.timed_out;
        if outcome.as_ref().is_ok_and(good) {
            return self.probe_goes_on(key);
        }
        let Some(probe) = self.probes.remove(&key) else {
            return;
        };
        let answer = |run| ProbeResponse {
            run: Some(run),
            age: u64::try_from(probe.at.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        let answer = outcome.map(|run| answer(run).encode_to_vec());
        self.answer(probe.caller, answer);
    }

    /// Ends probes with the runs that are under way.
    pub fn end_probes(&mut self, which: impl Fn(&Probe) -> bool) {
        let ended = self.probes.extract_if(.., |_, probe| which(probe));
        let ended: Vec<_> = ended.collect();
        for (key, probe) in ended {
            self.poller.cancel(Timer::ProbeDue(key));
            if let Some(running) = probe.running {
                self.doom(running, Doom::Abandoned);
            }
            self.answer(probe.caller, Err(gone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn probe(delay: u64, period: u64, now: Instant) -> Result<Probe, Status> {
        let request = ProbeRequest {
            delay,
            period,
            ..ProbeRequest::default()
        };
        Probe::new(Caller { conn: 1, stream: 1 }, request, now)
    }

    #[test]
    fn runs_keep_their_period_and_begin_it_anew_after_a_long_sleep() {
        let now = Instant::now();
        let seconds = |n| now + Duration::from_secs(n);
        let mut probe = probe(SECOND, 2 * SECOND, now).unwrap();
        assert_eq!(probe.at, seconds(1));
        probe.begin(seconds(1) + LATE);
        assert_eq!(probe.next(), seconds(3));
        probe.begin(seconds(60));
        assert_eq!(probe.next(), seconds(62));
    }

    #[test]
    fn a_probe_has_a_period_that_can_be_waited_for() {
        let now = Instant::now();
        assert!(probe(0, 0, now).is_err());
        // Some centuries, as far as clocks go.
        assert!(probe(u64::MAX, SECOND, now).is_ok());
    }
}
