//! What came of the tasks and probes of a pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::time::Instant;

use super::super::backoff::BackOff;
use super::super::memory::{Failure, every_container};
use super::super::names;
use super::super::probe::{Kind, Report};
use super::super::run::{container_reference, reference};
use super::{Done, Worker};

/// After something could not be stopped.
const REST: Duration = Duration::from_secs(1);

/// Containers that now wait for their next start after a crash, and did not in the old status.
pub(super) fn back_offs(old: Option<&PodStatus>, new: &PodStatus) -> Vec<String> {
    let waits = |c: &ContainerStatus| {
        let waiting = c.state.as_ref().and_then(|s| s.waiting.as_ref());
        waiting.is_some_and(|w| w.reason.as_deref() == Some("CrashLoopBackOff"))
    };
    let all = |status: &PodStatus| {
        let init = status.init_container_statuses.iter().flatten();
        let statuses: Vec<_> = init
            .chain(status.container_statuses.iter().flatten())
            .filter(|c| waits(c))
            .map(|c| (c.name.clone(), c.restart_count))
            .collect();
        statuses
    };
    let known = old.map(all).unwrap_or_default();
    let mut now = all(new);
    now.retain(|one| !known.contains(one));
    now.into_iter().map(|(name, _)| name).collect()
}

impl Worker {
    /// As the kubelet says it.
    pub(super) fn tell_back_offs(&self, crashed: &[String]) {
        for name in crashed {
            let key = &self.key;
            let (pod, namespace, uid) = (&key.name, &key.namespace, names::uid(&self.pod));
            let message = format!(
                "Back-off restarting failed container {name} in pod {pod}_{namespace}({uid})"
            );
            let object = container_reference(&self.pod, name);
            self.shared.events.warning(&object, "BackOff", message);
        }
    }

    /// A task has ended, or was aborted.
    pub(super) fn finished(&mut self, done: Option<Done>) {
        let Some(done) = done else {
            self.forget_aborted();
            return;
        };
        self.memory.busy.remove(&done.name);
        self.memory.starting.remove(&done.name);
        self.handles.remove(&done.name);
        if let Some(container) = done.name.strip_prefix("kill/") {
            self.terms.remove(container);
        }
        if !done.start {
            if let Err(failure) = done.result {
                tracing::warn!(pod = self.key.name, "not stopped: {}", failure.message);
                self.rest = Some(Instant::now() + REST);
            }
            return;
        }
        if done.name.is_empty() {
            self.sandbox_result(done.result);
        } else {
            self.start_result(&done.name, done.result);
        }
    }

    pub(super) fn forget_aborted(&mut self) {
        let over: Vec<String> = self
            .handles
            .iter()
            .filter(|(_, handle)| handle.is_finished())
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.handles.remove(&name);
            self.memory.busy.remove(&name);
            self.memory.starting.remove(&name);
        }
    }

    pub(super) fn sandbox_result(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.memory.sandbox_failure = None;
                self.memory.sandbox_retries = BackOff::default();
                self.memory.forget_starts();
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

    pub(super) fn start_result(&mut self, name: &str, result: Result<(), Failure>) {
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

    pub(super) fn report(&mut self, report: Report) {
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
}
