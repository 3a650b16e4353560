//! What a plan asks for, begun: each action is a task of its own.

use rrun_cri_api::v1 as cri;

use super::super::memory::{Failure, nanos};
use super::super::plan::Action;
use super::super::runtime::Runtime;
use super::kill::Term;
use super::{Done, Worker, grace, stuck};

impl Worker {
    /// Starts an action as a task of its own.
    pub(super) fn act(&mut self, action: Action, runtime: &Runtime) {
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
                let term = Term::new(own.unwrap_or_else(|| grace(&pod)));
                self.kill(&name, id, &message, term, runtime);
            }
            Action::Resize {
                name,
                id,
                sandbox,
                wanted,
                shrinks,
            } => {
                // It is a start to `finished`: one that fails is tried again after a back-off.
                self.spawn(format!("resize/{name}"), true, async move {
                    shared.resize(&pod, id, sandbox, *wanted, shrinks).await
                });
            }
            Action::Remove { id } => {
                self.spawn(format!("remove/{id}"), false, async move {
                    shared.cri.remove(&id).await.map_err(|s| stuck(&s))
                });
            }
        }
    }

    /// A container that crashed begins anew: the next crash waits longer.
    pub(super) fn begin(&mut self, name: &str, runtime: &Runtime) {
        if let Some(last) = runtime.newest(name)
            && last.state() == cri::ContainerState::ContainerExited
        {
            let part = self.memory.parts.entry(name.to_owned()).or_default();
            part.crashes.next(nanos(last.finished_at));
        }
    }

    pub(super) fn spawn<F>(&mut self, name: String, start: bool, work: F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        if !self.memory.busy.insert(name.clone()) {
            return;
        }
        if start {
            self.memory.starting.insert(name.clone());
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
}
