//! One pod's worker: a task that looks, plans and acts until nothing of the pod is left.
//!
//! ```text
//!            ┌────────── wanted: plan, start, kill, restart ──────────┐
//! (found) ───┤                                                        ├─▶ clean-up ─▶ (object removed)
//!            └─ ended (stop the sandbox, keep the logs) ─ deleted ────┘
//! ```

mod act;
mod capsules;
mod end;
mod kill;
mod results;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::backoff::BackOff;
use super::memory::{Failure, Memory};
use super::observe::{self, Ended};
use super::plan::{Plan, plan};
use super::probe::{Probers, Report};
use super::run::{Shared, reference};
use super::runtime::Runtime;
use super::{resize, status, volumes};
use crate::api::kinds;
use crate::resources::pod_requests;
use kill::Term;

/// After something did not answer it is asked again: after this at first, twice as long each time.
const AWAY: Duration = Duration::from_secs(1);
/// The longest of these pauses. A runtime that comes back wakes every worker at once.
const LONGEST_AWAY: Duration = Duration::from_secs(60);

/// What wakes a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something may have changed.
    Look,
    /// A ConfigMap or Secret of its volumes changed.
    Volumes,
    /// The runtime is back after it was away.
    Back,
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The end of a task that a worker started.
struct Done {
    name: String,
    result: Result<(), Failure>,
    /// Whether it started something, rather than stopped it.
    start: bool,
}

/// See the module.
pub struct Worker {
    shared: Arc<Shared>,
    key: Key,
    pod: Arc<Pod>,
    memory: Memory,
    ended: Ended,
    tasks: JoinSet<Done>,
    handles: HashMap<String, AbortHandle>,
    /// Until when the containers that are being stopped may take.
    terms: HashMap<String, watch::Sender<Term>>,
    /// The same of the whole pod, once it ends.
    ending: Option<Term>,
    probers: Probers,
    reports: mpsc::UnboundedReceiver<Report>,
    volumes_due: bool,
    /// Containers that a capsule was made of.
    kept: HashSet<String>,
    /// Capsules that are being made.
    keeping: Vec<tokio::task::JoinHandle<()>>,
    /// What an ended pod holds of the disk is given back.
    given_back: bool,
    /// When a token of its volumes is to be replaced.
    tokens_until: Option<tokio::time::Instant>,
    runtime_name: String,
    /// Something could not be stopped; it is tried again after this.
    rest: Option<tokio::time::Instant>,
    /// The pause after the next thing that does not answer.
    away: Duration,
}

/// The pod's grace period in seconds: of its deletion, or of its spec.
pub fn grace(pod: &Pod) -> i64 {
    let own = pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds);
    let asked = pod.metadata.deletion_grace_period_seconds;
    asked.or(own).unwrap_or(30).max(0)
}

/// What the pod is to come to.
enum Aim {
    /// It runs.
    Run,
    /// It has ended, and stays for people to look at.
    End(Option<(&'static str, String)>),
    /// It goes, and nothing of it is left.
    Go,
}

impl Worker {
    /// A worker of a pod that is in the API, or of what is left of one that is not.
    pub fn new(shared: Arc<Shared>, key: Key) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        Self {
            shared,
            key,
            pod: Arc::default(),
            memory: Memory::default(),
            ended: Ended::default(),
            tasks: JoinSet::new(),
            handles: HashMap::new(),
            terms: HashMap::new(),
            ending: None,
            probers: Probers::new(sender),
            reports,
            volumes_due: false,
            kept: HashSet::new(),
            keeping: Vec::new(),
            given_back: false,
            tokens_until: None,
            runtime_name: String::new(),
            rest: None,
            away: AWAY,
        }
    }

    /// Works until nothing of the pod is left.
    pub async fn run(mut self, mut wakes: mpsc::UnboundedReceiver<Wake>) {
        loop {
            let next = self.pass().await;
            let sleep = match next {
                Next::Over => return,
                Next::At(at) => {
                    self.away = AWAY;
                    at.map(until)
                }
                Next::After(left) => Some(left),
                Next::Away => {
                    let pause = self.away;
                    self.away = (pause * 2).min(LONGEST_AWAY);
                    Some(pause)
                }
                Next::NoRuntime => None,
            };
            tokio::select! {
                wake = wakes.recv() => match wake {
                    None => return,
                    Some(wake) => self.woken(wake),
                },
                Some(done) = self.tasks.join_next() => self.finished(done.ok()),
                Some(report) = self.reports.recv() => self.report(report),
                () = pause(sleep) => {}
                () = tokens_end(self.tokens_until) => self.volumes_due = true,
            }
            while let Ok(wake) = wakes.try_recv() {
                self.woken(wake);
            }
            while let Some(done) = self.tasks.try_join_next() {
                self.finished(done.ok());
            }
        }
    }

    /// A change of what the pod is made of is tried at once, not after the back-off of what failed
    /// for want of it.
    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Look => return,
            // What failed because nobody answered has not failed.
            Wake::Back => return self.memory.forgive(),
            Wake::Volumes => self.volumes_due = true,
        }
        self.memory.sandbox_retries = BackOff::default();
        for part in self.memory.parts.values_mut() {
            let wanting = |f: &Failure| f.reason == "CreateContainerConfigError";
            if part.failure.as_ref().is_some_and(wanting) {
                part.retries = BackOff::default();
            }
        }
    }

    /// Looks once and does what follows.
    async fn pass(&mut self) -> Next {
        let exists = self.read();
        let runtime = match self.look().await {
            Ok(runtime) => runtime,
            Err(next) => return next,
        };
        let now = Timestamp::now();
        let mut plan = plan(&self.pod, &runtime, &self.memory, now);
        let aim = self.aim(exists, &plan);
        match aim {
            Aim::Run => self.tend(&runtime).await,
            Aim::End(_) | Aim::Go => plan = self.stopping(&runtime, exists),
        }
        let ending = match &aim {
            Aim::End(Some((reason, message))) => Some((*reason, message.as_str())),
            _ => None,
        };
        let status = self.status(&runtime, ending, now);
        let resting = self
            .rest
            .map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
        let resting = resting.filter(|left| !left.is_zero());
        if resting.is_none() {
            // Begun before the status is on the disk: healing does not wait for it.
            for action in std::mem::take(&mut plan.actions) {
                self.act(action, &runtime);
            }
        }
        let changed = self.pod.status.as_ref() != Some(&status);
        let crashed = results::back_offs(self.pod.status.as_ref(), &status);
        if exists && changed && !self.write(status).await {
            return Next::Away;
        }
        self.tell_back_offs(&crashed);
        match self.settle(&aim, &plan, &runtime, exists).await {
            Some(next) => next,
            None => resting.map_or(Next::At(plan.wake), Next::After),
        }
    }

    /// What the runtime has of the pod, noticed.
    async fn look(&mut self) -> Result<Runtime, Next> {
        if !self.shared.cri.is_there() {
            return Err(Next::NoRuntime);
        }
        let runtime = observe::observe(&self.shared.cri, &self.key.uid, &mut self.ended).await;
        let runtime = runtime.map_err(|error| {
            tracing::debug!(
                pod = self.key.name,
                "the runtime does not answer: {}",
                error.message()
            );
            Next::Away
        })?;
        if self.runtime_name.is_empty() {
            self.runtime_name = self.shared.cri.name().await;
        }
        self.memory.notice(&self.pod, &runtime);
        self.keep_capsules(&runtime);
        self.memory.resize = self.resize(&runtime);
        Ok(runtime)
    }

    /// What a pod that runs needs beside its containers.
    async fn tend(&mut self, runtime: &Runtime) {
        self.probers
            .tend(&self.pod, runtime, &self.memory, &self.shared.cri);
        if runtime.ready_sandbox().is_some() {
            self.refresh_volumes().await;
        }
    }

    /// What is left to do of a pod that has ended; `None` where that is nothing.
    async fn settle(
        &mut self,
        aim: &Aim,
        plan: &Plan,
        runtime: &Runtime,
        exists: bool,
    ) -> Option<Next> {
        match aim {
            Aim::Go if plan.ended => Some(self.clean_up(runtime, exists).await),
            Aim::End(_) if plan.ended && !self.given_back => {
                let done = self.give_back(runtime).await;
                self.given_back = done.is_ok();
                done.err()
            }
            _ => None,
        }
    }

    /// Reads the pod anew. False where it is no longer in the API, which keeps what was known.
    fn read(&mut self) -> bool {
        let key = &self.key;
        let stored = self
            .shared
            .client
            .find(&kinds::POD, &key.namespace, &key.name);
        if let Some(object) = stored.filter(|o| o.uid() == key.uid)
            && let Ok(pod) = object.typed::<Pod>()
        {
            self.pod = Arc::new(pod);
            return true;
        }
        if self.pod.metadata.uid.is_none() {
            let mut pod = Pod::default();
            pod.metadata.name = Some(key.name.clone());
            pod.metadata.namespace = Some(key.namespace.clone());
            pod.metadata.uid = Some(key.uid.clone());
            pod.metadata.deletion_grace_period_seconds = Some(1);
            self.pod = Arc::new(pod);
        }
        false
    }

    /// Why the pod is not given what it now asks for, where it is not.
    fn resize(&self, runtime: &Runtime) -> Option<resize::Pending> {
        if !resize::is_wanted(&self.pod, runtime) {
            return None;
        }
        let spec = self.pod.spec.as_ref()?;
        let others = self.shared.others_ask(&self.pod);
        resize::pending(&pod_requests(spec), &others, &self.shared.allocatable)
    }

    fn aim(&self, exists: bool, plan: &Plan) -> Aim {
        let pod = &self.pod;
        if !exists || pod.metadata.deletion_timestamp.is_some() {
            return Aim::Go;
        }
        if let Some(why) = self.evicted() {
            return Aim::End(Some(("Evicted", why)));
        }
        if !plan.ended {
            return Aim::Run;
        }
        let late = pod
            .spec
            .as_ref()
            .and_then(|spec| super::plan::deadline(pod, spec))
            .is_some_and(|at| Timestamp::now() >= at);
        if late && !super::plan::phase_is_final(pod) {
            let message = "Pod was active on the node longer than the specified deadline";
            return Aim::End(Some(("DeadlineExceeded", message.to_owned())));
        }
        Aim::End(None)
    }

    /// Why the pod is evicted, where it has not ended yet.
    fn evicted(&self) -> Option<String> {
        if super::plan::phase_is_final(&self.pod) {
            return None;
        }
        self.sent_away()
    }

    /// Why the node wants the pod gone.
    fn sent_away(&self) -> Option<String> {
        let all = &self.shared.evictions;
        let all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&self.key.uid).cloned()
    }

    /// The status that the pod should have.
    fn status(&self, runtime: &Runtime, ending: Option<(&str, &str)>, now: Timestamp) -> PodStatus {
        let inputs = status::Inputs {
            pod: &self.pod,
            runtime,
            memory: &self.memory,
            runtime_name: &self.runtime_name,
            host_ip: &self.shared.host_ip,
            ending,
            now: Timestamp::from_second(now.as_second()).unwrap_or(now),
        };
        status::status(&inputs)
    }

    /// Stores the status. False where that failed.
    async fn write(&mut self, status: PodStatus) -> bool {
        let Ok(value) = serde_json::to_value(&status) else {
            return true;
        };
        let key = &self.key;
        let written = self
            .shared
            .client
            .set_status(&kinds::POD, &key.namespace, &key.name, value)
            .await;
        match written {
            Ok(_) => {
                Arc::make_mut(&mut self.pod).status = Some(status);
                true
            }
            Err(status) if status.code == 404 => true,
            Err(status) => {
                tracing::warn!(pod = key.name, "status not written: {}", status.message);
                false
            }
        }
    }

    async fn refresh_volumes(&mut self) {
        let life = volumes::token_life(&self.pod);
        let adopted = life.is_some() && self.tokens_until.is_none();
        if !std::mem::take(&mut self.volumes_due) && !adopted {
            return;
        }
        self.tokens_until = life.map(|life| tokio::time::Instant::now() + life);
        if let Err(why) = self.shared.volumes(&self.pod).await {
            let object = reference(&self.pod, None);
            self.shared.events.warning(&object, "FailedMount", why);
        }
    }
}

/// When to look next.
enum Next {
    /// Nothing is left to do, ever.
    Over,
    /// At an instant, or when woken.
    At(Option<Timestamp>),
    /// After a while, or when woken.
    After(Duration),
    /// Something did not answer.
    Away,
    /// The runtime is away; the agent tells when it is back.
    NoRuntime,
}

fn until(at: Timestamp) -> Duration {
    let left = at.as_nanosecond() - Timestamp::now().as_nanosecond();
    Duration::from_nanos(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1)
}

async fn tokens_end(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

fn stuck(status: &tonic::Status) -> Failure {
    Failure {
        reason: "FailedKillPod".to_owned(),
        message: status.message().to_owned(),
        at: Timestamp::now(),
    }
}
