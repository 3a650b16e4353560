//! The end of a pod: what stops it, and what removes every trace of it.

use rrun_cri_api::v1 as cri;

use super::super::plan::{Action, Plan};
use super::super::runtime::{Runtime, is_ready, name_of};
use super::super::{names, volumes};
use super::kill::Term;
use super::{Next, Worker, grace};
use crate::api::{DeleteOptions, kinds};
use crate::resources::is_sidecar;

/// Seconds that a pod gets whose node runs out of memory or disk, as the kubelet's hard thresholds have it.
const AT_ONCE: i64 = 1;

impl Worker {
    /// What stops the pod: main containers, then sidecars, then sandboxes. `ended` once nothing is
    /// left that could run.
    pub(super) fn stopping(&mut self, runtime: &Runtime, exists: bool) -> Plan {
        self.abort_starts();
        self.probers.stop(None);
        let mut plan = Plan::default();
        let spec = self.pod.spec.clone().unwrap_or_default();
        let sidecar = |name: &str| {
            let init = spec.init_containers.iter().flatten();
            init.into_iter().any(|c| c.name == name && is_sidecar(c))
        };
        let (late, first): (Vec<&cri::ContainerStatus>, Vec<_>) =
            runtime.running().partition(|c| sidecar(name_of(c)));
        let allowed = self.allowed(exists);
        let term = self.ending.get_or_insert_with(|| Term::new(allowed));
        term.shorten(Term::new(allowed));
        // Sidecars have what the main containers left.
        let (now, grace) = if first.is_empty() {
            (late, term.left_late())
        } else {
            (first, allowed)
        };
        if now.is_empty() {
            for sandbox in runtime.sandboxes.iter().filter(|s| is_ready(s)) {
                plan.actions.push(Action::StopSandbox {
                    id: sandbox.id.clone(),
                });
            }
            plan.ended = plan.actions.is_empty() && self.memory.busy.is_empty();
            return plan;
        }
        for status in now {
            let name = name_of(status).to_owned();
            plan.actions.push(Action::Kill {
                message: format!("Stopping container {name}"),
                name,
                id: status.id.clone(),
                grace: Some(grace),
            });
        }
        plan
    }

    /// Seconds that the containers get: none once the object is gone, which is what a forced
    /// delete means.
    fn allowed(&self, exists: bool) -> i64 {
        let known = self.pod.spec.is_some();
        if known && !exists {
            0
        } else if self.sent_away().is_some() {
            grace(&self.pod).min(AT_ONCE)
        } else {
            grace(&self.pod)
        }
    }

    /// Gives back what an ended pod holds of the disk while its object stays: its volumes; and where
    /// it had to go for want of disk or memory, its containers and logs too, as the kubelet does.
    pub(super) async fn give_back(&mut self, runtime: &Runtime) -> Result<(), Next> {
        let status = self.pod.status.as_ref();
        let evicted = status.is_some_and(|s| s.reason.as_deref() == Some("Evicted"));
        if evicted {
            // What they left is read before it goes.
            for kept in self.keeping.drain(..) {
                let _ = kept.await;
            }
            self.remove_runtime(runtime).await?;
        }
        let removed = self.remove_files(evicted).await;
        removed.map_err(|error| {
            tracing::warn!(pod = self.key.name, "files not removed: {error}");
            Next::Away
        })
    }

    async fn remove_runtime(&self, runtime: &Runtime) -> Result<(), Next> {
        let cri = &self.shared.cri;
        for container in runtime.all() {
            let removed = cri.remove(&container.id).await;
            removed.map_err(|error| self.try_later("container", &error))?;
        }
        for sandbox in &runtime.sandboxes {
            let removed = cri.remove_sandbox(&sandbox.id).await;
            removed.map_err(|error| self.try_later("sandbox", &error))?;
        }
        Ok(())
    }

    /// Starts that are under way end here; a sandbox that is being made is waited for.
    pub(super) fn abort_starts(&mut self) {
        for (name, handle) in &self.handles {
            if !name.is_empty() && !name.starts_with("kill/") {
                handle.abort();
            }
        }
    }

    /// Removes every trace of the pod, and its object last.
    pub(super) async fn clean_up(&mut self, runtime: &Runtime, exists: bool) -> Next {
        if let Err(next) = self.remove_runtime(runtime).await {
            return next;
        }
        if let Err(error) = self.remove_files(true).await {
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

    pub(super) fn try_later(&self, what: &str, error: &tonic::Status) -> Next {
        tracing::warn!(
            pod = self.key.name,
            "{what} not removed: {}",
            error.message()
        );
        Next::Away
    }

    /// Removes the pod's volumes, and its logs where they are to go too.
    async fn remove_files(&self, logs: bool) -> std::io::Result<()> {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let work = move || {
            volumes::remove(&shared.dirs, names::uid(&pod))?;
            if !logs {
                return Ok(());
            }
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
