//! One pod's worker: a task that looks, plans and acts until nothing of the pod is left.
//!
//! ```text
//!            ┌────────── wanted: plan, start, kill, restart ──────────┐
//! (found) ───┤                                                        ├─▶ clean-up ─▶ (object removed)
//!            └─ ended (stop the sandbox, keep the logs) ─ deleted ────┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use rrun_cri_api::v1 as cri;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::backoff::BackOff;
use super::exec::Place;
use super::memory::{Failure, Memory, every_container, nanos};
use super::observe::{self, Ended};
use super::plan::{Action, Plan, plan};
use super::probe::{self, Kind, Probers, Report};
use super::run::{Shared, container_reference, reference};
use super::runtime::{Runtime, is_ready};
use super::{hooks, names, status, volumes};
use crate::api::{DeleteOptions, kinds};
use crate::resources::is_sidecar;

/// While the CRI socket does not answer, it is asked again this often.
const AWAY: Duration = Duration::from_secs(1);

/// What wakes a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something may have changed.
    Look,
    /// A ConfigMap or Secret of its volumes changed.
    Volumes,
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
    probers: Probers,
    reports: mpsc::UnboundedReceiver<Report>,
    volumes_due: bool,
    runtime_name: String,
    /// Something could not be stopped; it is tried again after this.
    rest: Option<Timestamp>,
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
    End(Option<(&'static str, &'static str)>),
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
            probers: Probers::new(sender),
            reports,
            volumes_due: false,
            runtime_name: String::new(),
            rest: None,
        }
    }

    /// Works until nothing of the pod is left.
    pub async fn run(mut self, mut wakes: mpsc::UnboundedReceiver<Wake>) {
        self.runtime_name = self.shared.cri.name().await;
        loop {
            let next = self.pass().await;
            let sleep = match next {
                Next::Over => return,
                Next::At(at) => at.map(until),
                Next::Away => Some(AWAY),
            };
            tokio::select! {
                wake = wakes.recv() => match wake {
                    None => return,
                    Some(wake) => self.woken(wake),
                },
                Some(done) = self.tasks.join_next() => self.finished(done.ok()),
                Some(report) = self.reports.recv() => self.report(report),
                () = pause(sleep) => {}
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
        if wake != Wake::Volumes {
            return;
        }
        self.volumes_due = true;
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
        let runtime = observe::observe(&self.shared.cri, &self.key.uid, &mut self.ended).await;
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::debug!(
                    pod = self.key.name,
                    "the runtime does not answer: {}",
                    error.message()
                );
                return Next::Away;
            }
        };
        self.memory.notice(&self.pod, &runtime);
        let now = Timestamp::now();
        let mut plan = plan(&self.pod, &runtime, &self.memory, now);
        let aim = self.aim(exists, &plan);
        match aim {
            Aim::Run => {
                self.probers
                    .tend(&self.pod, &runtime, &self.memory, &self.shared.cri);
                self.refresh_volumes().await;
            }
            Aim::End(_) | Aim::Go => {
                plan = self.stopping(&runtime, matches!(aim, Aim::Go));
            }
        }
        let ending = match &aim {
            Aim::End(reason) => *reason,
            _ => None,
        };
        let status = self.status(&runtime, ending, now);
        let resting = self.rest.filter(|at| *at > now);
        if resting.is_none() {
            // Begun before the status is on the disk: healing does not wait for it.
            for action in std::mem::take(&mut plan.actions) {
                self.act(action, &runtime);
            }
        }
        let changed = self.pod.status.as_ref() != Some(&status);
        if exists && changed && !self.write(status).await {
            return Next::Away;
        }
        if matches!(aim, Aim::Go) && plan.ended {
            return self.clean_up(&runtime, exists).await;
        }
        Next::At(resting.or(plan.wake))
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

    fn aim(&self, exists: bool, plan: &Plan) -> Aim {
        let pod = &self.pod;
        if !exists || pod.metadata.deletion_timestamp.is_some() {
            return Aim::Go;
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
            return Aim::End(Some(("DeadlineExceeded", message)));
        }
        Aim::End(None)
    }

    /// What stops the pod: main containers, then sidecars, then sandboxes. `ended` once nothing is
    /// left that could run.
    fn stopping(&mut self, runtime: &Runtime, go: bool) -> Plan {
        self.abort_starts();
        self.probers.stop(None);
        let mut plan = Plan::default();
        let spec = self.pod.spec.clone().unwrap_or_default();
        let sidecar = |name: &str| {
            let init = spec.init_containers.iter().flatten();
            init.into_iter().any(|c| c.name == name && is_sidecar(c))
        };
        let (late, first): (Vec<&cri::ContainerStatus>, Vec<_>) = runtime
            .running()
            .partition(|c| sidecar(super::runtime::name_of(c)));
        let now = if first.is_empty() { late } else { first };
        if now.is_empty() {
            for sandbox in runtime.sandboxes.iter().filter(|s| is_ready(s)) {
                plan.actions.push(Action::StopSandbox {
                    id: sandbox.id.clone(),
                });
            }
            plan.ended = plan.actions.is_empty() && self.memory.busy.is_empty();
            return plan;
        }
        let grace = if go { Some(grace(&self.pod)) } else { None };
        for status in now {
            let name = super::runtime::name_of(status).to_owned();
            plan.actions.push(Action::Kill {
                message: format!("Stopping container {name}"),
                name,
                id: status.id.clone(),
                grace,
            });
        }
        plan
    }

    /// Starts that are under way end here; a sandbox that is being made is waited for.
    fn abort_starts(&mut self) {
        for (name, handle) in &self.handles {
            if !name.is_empty() && !name.starts_with("kill/") {
                handle.abort();
            }
        }
        self.handles.retain(|_, handle| !handle.is_finished());
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
        if !std::mem::take(&mut self.volumes_due) {
            return;
        }
        if let Err(why) = self.shared.volumes(&self.pod).await {
            let object = reference(&self.pod, None);
            self.shared.events.warning(&object, "FailedMount", why);
        }
    }

    /// Starts an action as a task of its own.
    fn act(&mut self, action: Action, runtime: &Runtime) {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        match action {
            Action::Sandbox { attempt } => {
                self.spawn(String::new(), true, async move {
                    shared.run_sandbox(pod, attempt).await
                });
            }
            Action::StopSandbox { id } => {
                self.spawn(String::new(), false, async move {
                    shared.cri.stop_sandbox(&id).await.map_err(|s| stuck(&s))
                });
            }
            Action::Start {
                container,
                restarts,
                sandbox,
            } => {
                let name = container.name.clone();
                self.begin(&name, runtime);
                self.spawn(name, true, async move {
                    // It holds requests and answers of many kinds: too large for a stack.
                    Box::pin(shared.run_container(pod, container, restarts, sandbox)).await
                });
            }
            Action::Kill {
                name,
                id,
                message,
                grace: own,
            } => {
                self.kill(
                    &name,
                    id,
                    &message,
                    own.unwrap_or_else(|| grace(&pod)),
                    runtime,
                );
            }
            Action::Remove { id } => {
                self.spawn(format!("remove/{id}"), false, async move {
                    shared.cri.remove(&id).await.map_err(|s| stuck(&s))
                });
            }
        }
    }

    /// A container that crashed begins anew: the next crash waits longer.
    fn begin(&mut self, name: &str, runtime: &Runtime) {
        if let Some(last) = runtime.newest(name)
            && last.state() == cri::ContainerState::ContainerExited
        {
            let part = self.memory.parts.entry(name.to_owned()).or_default();
            part.crashes.next(nanos(last.finished_at));
        }
    }

    fn kill(&mut self, name: &str, id: String, message: &str, grace: i64, runtime: &Runtime) {
        let task = format!("kill/{name}");
        if self.memory.busy.contains(&task) {
            return;
        }
        let object = container_reference(&self.pod, name);
        self.shared.events.normal(&object, "Killing", message);
        self.probers.stop(Some(name));
        let container = every_container(&self.pod)
            .into_iter()
            .find(|c| c.name == name);
        let place = Place {
            cri: self.shared.cri.clone(),
            id: id.clone(),
            container: container.unwrap_or_else(|| Container {
                name: name.to_owned(),
                ..Container::default()
            }),
            ip: probe::address(runtime, &self.pod),
        };
        let shared = self.shared.clone();
        self.spawn(task, false, async move {
            let begun = std::time::Instant::now();
            let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            if !limit.is_zero()
                && let Err(why) = hooks::pre_stop(&place, limit).await
            {
                shared.events.warning(&object, "FailedPreStopHook", why);
            }
            let spent = i64::try_from(begun.elapsed().as_secs()).unwrap_or(grace);
            // A hook that used up the grace leaves two seconds, as the kubelet does.
            let left = if spent == 0 {
                grace
            } else {
                (grace - spent).max(2)
            };
            shared.cri.stop(&id, left).await.map_err(|s| stuck(&s))
        });
    }

    fn spawn<F>(&mut self, name: String, start: bool, work: F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        if !self.memory.busy.insert(name.clone()) {
            return;
        }
        let task = name.clone();
        let handle = self.tasks.spawn(async move {
            let result = work.await;
            Done {
                name: task,
                result,
                start,
            }
        });
        self.handles.insert(name, handle);
    }

    /// A task has ended, or was aborted.
    fn finished(&mut self, done: Option<Done>) {
        let Some(done) = done else {
            self.forget_aborted();
            return;
        };
        self.memory.busy.remove(&done.name);
        self.handles.remove(&done.name);
        if !done.start {
            if let Err(failure) = done.result {
                tracing::warn!(pod = self.key.name, "not stopped: {}", failure.message);
                self.rest = failure
                    .at
                    .checked_add(jiff::SignedDuration::from_secs(1))
                    .ok();
            }
            return;
        }
        if done.name.is_empty() {
            self.sandbox_result(done.result);
        } else {
            self.start_result(&done.name, done.result);
        }
    }

    fn forget_aborted(&mut self) {
        let over: Vec<String> = self
            .handles
            .iter()
            .filter(|(_, handle)| handle.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.handles.remove(&name);
            self.memory.busy.remove(&name);
        }
    }

    fn sandbox_result(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.memory.sandbox_failure = None;
                self.memory.sandbox_retries = BackOff::default();
            }
            Err(failure) => {
                let object = reference(&self.pod, None);
                self.shared
                    .events
                    .warning(&object, &failure.reason, failure.message.clone());
                self.memory.sandbox_retries.next(failure.at);
                self.memory.sandbox_failure = Some(failure);
            }
        }
    }

    fn start_result(&mut self, name: &str, result: Result<(), Failure>) {
        let object = container_reference(&self.pod, name);
        let container = every_container(&self.pod)
            .into_iter()
            .find(|c| c.name == name);
        let part = self.memory.parts.entry(name.to_owned()).or_default();
        let mut failure = match result {
            Ok(()) => {
                part.failure = None;
                part.retries = BackOff::default();
                return;
            }
            Err(failure) => failure,
        };
        let events = &self.shared.events;
        let image = container.and_then(|c| c.image).unwrap_or_default();
        if failure.reason == "ErrImagePull" && part.failure.is_some() {
            events.normal(
                &object,
                "BackOff",
                format!("Back-off pulling image \"{image}\""),
            );
            let why = &failure.message;
            failure.message = format!("Back-off pulling image \"{image}\": ErrImagePull: {why}");
            "ImagePullBackOff".clone_into(&mut failure.reason);
        } else {
            events.warning(&object, "Failed", format!("Error: {}", failure.message));
        }
        part.retries.next(failure.at);
        // A hook that failed ended the container: its back-off is that of a crash.
        part.failure = (failure.reason != "PostStartHookError").then_some(failure);
    }

    fn report(&mut self, report: Report) {
        let object = container_reference(&self.pod, &report.name);
        if let Some(why) = &report.failure {
            let title = report.kind.title();
            let message = format!("{title} probe failed: {why}");
            self.shared.events.warning(&object, "Unhealthy", message);
        }
        let Some(part) = self.memory.parts.get_mut(&report.name) else {
            return;
        };
        if part.id != report.id {
            return;
        }
        match (report.kind, report.verdict) {
            (_, None) => {}
            (Kind::Startup, Some(true)) => part.started = true,
            (Kind::Readiness, Some(good)) => part.ready = good,
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                let why = report.failure.unwrap_or_default();
                part.condemned = Some((report.kind.name().to_owned(), why));
            }
            (Kind::Liveness, Some(true)) => {}
        }
    }

    /// Removes every trace of the pod, and its object last.
    async fn clean_up(&mut self, runtime: &Runtime, exists: bool) -> Next {
        let cri = &self.shared.cri;
        for container in runtime.all() {
            if let Err(error) = cri.remove(&container.id).await {
                return self.try_later("container", &error);
            }
        }
        for sandbox in &runtime.sandboxes {
            if let Err(error) = cri.remove_sandbox(&sandbox.id).await {
                return self.try_later("sandbox", &error);
            }
        }
        if let Err(error) = self.remove_files().await {
            tracing::warn!(pod = self.key.name, "files not removed: {error}");
            return Next::Away;
        }
        if !exists {
            return Next::Over;
        }
        let key = &self.key;
        let options = DeleteOptions::now(&key.uid);
        let deleted = self
            .shared
            .client
            .delete(&kinds::POD, &key.namespace, &key.name, &options)
            .await;
        match deleted {
            Ok(_) => Next::Over,
            Err(status) if status.code == 404 || status.code == 409 => Next::Over,
            Err(status) => {
                tracing::warn!(pod = key.name, "object not removed: {}", status.message);
                Next::Away
            }
        }
    }

    fn try_later(&self, what: &str, error: &tonic::Status) -> Next {
        tracing::warn!(
            pod = self.key.name,
            "{what} not removed: {}",
            error.message()
        );
        Next::Away
    }

    async fn remove_files(&self) -> std::io::Result<()> {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let work = move || {
            volumes::remove(&shared.dirs, names::uid(&pod))?;
            match std::fs::remove_dir_all(shared.dirs.logs(&pod)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(std::io::Error::other(e)))
    }
}

/// When to look next.
enum Next {
    /// Nothing is left to do, ever.
    Over,
    /// At an instant, or when woken.
    At(Option<Timestamp>),
    /// Something did not answer.
    Away,
}

fn until(at: Timestamp) -> Duration {
    let left = at.as_nanosecond() - Timestamp::now().as_nanosecond();
    Duration::from_nanos(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1)
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
