//! What a pod needs next: a pure function of the pod, of what the CRI says and of what is remembered.
//!
//! ```text
//! no sandbox ──▶ sandbox ──▶ init 1 ──▶ … init n ──▶ main containers ──▶ ended
//!     ▲             │                                   │    ▲              │
//!     └─ sandbox lost, pod goes on                crash │    │ back-off     └─▶ sandbox stopped
//!                                                       └────┘
//! ```

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use rrun_cri_api::v1::{ContainerState, ContainerStatus, LinuxContainerResources};

use super::memory::{Memory, as_container, nanos};
use super::names::container_hash;
use super::runtime::{Runtime, hash_of, restarts, sandbox_attempt};
use super::security;
use crate::resources::is_sidecar;

/// A resize that other pods leave no room for is looked at again after this.
const ROOM: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// One thing to do. All actions of a plan are independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the pod's sandbox.
    Sandbox {
        /// Its attempt, counted from 0.
        attempt: u32,
    },
    /// Stop a sandbox and all that runs in it.
    StopSandbox {
        /// Its CRI id.
        id: String,
    },
    /// Make and start a container.
    Start {
        /// Which.
        container: Box<Container>,
        /// Its restart count.
        restarts: u32,
        /// CRI id of the sandbox.
        sandbox: String,
    },
    /// Stop a container that runs but should not.
    Kill {
        /// Its name.
        name: String,
        /// Its CRI id.
        id: String,
        /// Why, for the event.
        message: String,
        /// Seconds it gets, where not the pod's own.
        grace: Option<i64>,
    },
    /// Give a running container other resources.
    Resize {
        /// Its name.
        name: String,
        /// Its CRI id.
        id: String,
        /// CRI id of the sandbox.
        sandbox: String,
        /// What it is to have.
        wanted: Box<LinuxContainerResources>,
        /// Whether its memory limit comes down.
        shrinks: bool,
    },
    /// Forget a container that ended long ago.
    Remove {
        /// Its CRI id.
        id: String,
    },
}

/// What comes next.
#[derive(Debug, Default)]
pub struct Plan {
    /// To do now.
    pub actions: Vec<Action>,
    /// When to look again, where nothing else happens.
    pub wake: Option<Timestamp>,
    /// The pod has ended: nothing of it will run again.
    pub ended: bool,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |other| other.min(at)));
    }
}

/// Plans for a pod that is wanted.
pub fn plan(pod: &Pod, runtime: &Runtime, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    let look = Look {
        spec,
        runtime,
        memory,
        now,
    };
    if let Some(deadline) = deadline(pod, spec) {
        if now >= deadline {
            plan.ended = true;
            return plan;
        }
        plan.wake_at(deadline);
    }
    if phase_is_final(pod) || look.has_ended() {
        plan.ended = true;
        return plan;
    }
    match runtime.ready_sandbox() {
        None => look.sandbox(&mut plan),
        Some(sandbox) => look.containers(&sandbox.id, &mut plan),
    }
    look.old(&mut plan);
    plan
}

/// Whether the stored phase says that the pod has ended, which nothing undoes.
pub fn phase_is_final(pod: &Pod) -> bool {
    crate::scheduler::snapshot::finished(pod)
}

/// When the pod's activeDeadlineSeconds have passed.
pub fn deadline(pod: &Pod, spec: &PodSpec) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .ok()
}

struct Look<'a> {
    spec: &'a PodSpec,
    runtime: &'a Runtime,
    memory: &'a Memory,
    now: Timestamp,
}

/// Where a container is in its life.
enum Stage<'a> {
    Absent,
    /// Made but not started: a start was cut short.
    Created,
    Running(&'a ContainerStatus),
    Ended(&'a ContainerStatus),
}

impl Look<'_> {
    fn policy(&self) -> &str {
        self.spec.restart_policy.as_deref().unwrap_or("Always")
    }

    fn init(&self) -> &[Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    fn stage(&self, name: &str) -> Stage<'_> {
        match self.runtime.newest(name) {
            None => Stage::Absent,
            Some(c) => match c.state() {
                ContainerState::ContainerRunning => Stage::Running(c),
                ContainerState::ContainerExited => Stage::Ended(c),
                ContainerState::ContainerCreated | ContainerState::ContainerUnknown => {
                    Stage::Created
                }
            },
        }
    }

    /// Whether a container that ended with this code is started again.
    fn again(&self, container: &Container, code: i32) -> bool {
        match container.restart_policy.as_deref().unwrap_or(self.policy()) {
            "Never" => false,
            "OnFailure" => code != 0,
            _ => true,
        }
    }

    fn busy(&self, name: &str) -> bool {
        self.memory.busy.contains(name)
    }

    /// Whether every container has ended for good, or an init container has failed for good.
    fn has_ended(&self) -> bool {
        let failed_init = self.init().iter().filter(|c| !is_sidecar(c)).any(|c| {
            matches!(self.stage(&c.name), Stage::Ended(s) if s.exit_code != 0)
                && self.policy() == "Never"
                && !self.busy(&c.name)
        });
        failed_init
            || self.spec.containers.iter().all(
                |c| matches!(self.stage(&c.name), Stage::Ended(s) if !self.again(c, s.exit_code)),
            )
    }

    fn sandbox(&self, plan: &mut Plan) {
        if self.busy("") {
            return;
        }
        let newest = self.runtime.sandboxes.first();
        // What still runs in a lost sandbox goes before a new one comes.
        if let Some(old) = newest
            && self.runtime.running().next().is_some()
        {
            plan.actions
                .push(Action::StopSandbox { id: old.id.clone() });
            return;
        }
        if let Some(failure) = &self.memory.sandbox_failure
            && let Some(at) = self.memory.sandbox_retries.until(failure.at, self.now)
        {
            plan.wake_at(at);
            return;
        }
        let attempt = newest.map_or(0, |s| sandbox_attempt(s) + 1);
        plan.actions.push(Action::Sandbox { attempt });
    }

    fn containers(&self, sandbox: &str, plan: &mut Plan) {
        if self.init_done(sandbox, plan) {
            for container in &self.spec.containers {
                self.tend(container, sandbox, plan);
            }
        }
        for ephemeral in self.spec.ephemeral_containers.iter().flatten() {
            if matches!(self.stage(&ephemeral.name), Stage::Absent) {
                self.start(&as_container(ephemeral), sandbox, plan);
            }
        }
    }

    /// Brings the init sequence on. True once main containers may start.
    fn init_done(&self, sandbox: &str, plan: &mut Plan) -> bool {
        // Once a main container of this sandbox was made, the sequence is over; sidecars live on.
        let begun = self.spec.containers.iter().any(|c| {
            self.runtime.newest(&c.name).is_some_and(|s| self.is_of(s)) || self.busy(&c.name)
        });
        for container in self.init() {
            if is_sidecar(container) {
                self.tend(container, sandbox, plan);
                let running = matches!(self.stage(&container.name), Stage::Running(_));
                let running = running && !self.memory.is_hooked(container);
                let started = running && self.memory.part(&container.name).started;
                if !begun && !started {
                    return false;
                }
                continue;
            }
            if begun {
                continue;
            }
            match self.stage(&container.name) {
                Stage::Ended(s) if s.exit_code == 0 && self.is_of(s) => {}
                Stage::Running(_) => return false,
                _ => {
                    self.tend(container, sandbox, plan);
                    return false;
                }
            }
        }
        true
    }

    /// Whether the container was made since the newest sandbox was: what an older sandbox did does
    /// not count for the init sequence.
    fn is_of(&self, status: &ContainerStatus) -> bool {
        let sandbox = self.runtime.sandboxes.first();
        sandbox.is_none_or(|s| status.created_at >= s.created_at)
    }

    /// Keeps one container running.
    fn tend(&self, container: &Container, sandbox: &str, plan: &mut Plan) {
        let name = &container.name;
        if self.busy(name) {
            return;
        }
        match self.stage(name) {
            Stage::Absent | Stage::Created => self.start(container, sandbox, plan),
            Stage::Running(status) => {
                if !self.resize(container, status, sandbox, plan) {
                    self.check(container, status, plan);
                }
            }
            Stage::Ended(status) => {
                let lost = !self.is_of(status);
                // An init container is started again whenever it has not succeeded.
                let init = self.init().iter().any(|c| c.name == *name) && !is_sidecar(container);
                if lost || self.again(container, status.exit_code) || init {
                    self.restart(container, status, sandbox, plan);
                }
            }
        }
    }

    /// Whether the container is given other resources, or replaced by one that has them.
    fn resize(
        &self,
        container: &Container,
        status: &ContainerStatus,
        sandbox: &str,
        plan: &mut Plan,
    ) -> bool {
        let now = status.resources.as_ref().and_then(|r| r.linux.as_ref());
        let Some((now, wanted)) = now.and_then(|n| Some((n, security::resized(container, n)?)))
        else {
            return false;
        };
        if let Some(pending) = &self.memory.resize {
            if pending.reason == "Deferred" {
                plan.wake_at(self.now + ROOM);
            }
            return false;
        }
        let name = &container.name;
        let changed = |resource: &str| match resource {
            "memory" => now.memory_limit_in_bytes != wanted.memory_limit_in_bytes,
            _ => now.cpu_quota != wanted.cpu_quota || now.cpu_shares != wanted.cpu_shares,
        };
        let policies = container.resize_policy.iter().flatten();
        let mut restarts = policies.filter(|p| p.restart_policy == "RestartContainer");
        if restarts.any(|p| changed(&p.resource_name)) {
            plan.actions.push(Action::Kill {
                name: name.clone(),
                id: status.id.clone(),
                message: format!("Container {name} resize requires restart"),
                grace: None,
            });
            return true;
        }
        let task = format!("resize/{name}");
        let failed = &self.memory.part(&task);
        if let Some(failure) = &failed.failure
            && let Some(at) = failed.retries.until(failure.at, self.now)
        {
            plan.wake_at(at);
        } else if !self.busy(&task) {
            plan.actions.push(Action::Resize {
                name: name.clone(),
                id: status.id.clone(),
                sandbox: sandbox.to_owned(),
                shrinks: wanted.memory_limit_in_bytes != 0
                    && (now.memory_limit_in_bytes == 0
                        || wanted.memory_limit_in_bytes < now.memory_limit_in_bytes),
                wanted: Box::new(wanted),
            });
        }
        false
    }

    /// Whether a running container is to be replaced.
    fn check(&self, container: &Container, status: &ContainerStatus, plan: &mut Plan) {
        let part = self.memory.part(&container.name);
        let changed = hash_of(status).is_some_and(|hash| hash != container_hash(container));
        let (message, grace) = if changed {
            let name = &container.name;
            (
                format!("Container {name} definition changed, will be restarted"),
                None,
            )
        } else if let Some((probe, _)) = part.condemned.filter(|_| part.id == status.id) {
            let own = match probe.as_str() {
                "startup" => container.startup_probe.as_ref(),
                _ => container.liveness_probe.as_ref(),
            };
            let grace = own.and_then(|p| p.termination_grace_period_seconds);
            let name = &container.name;
            (
                format!("Container {name} failed {probe} probe, will be restarted"),
                grace,
            )
        } else {
            return;
        };
        plan.actions.push(Action::Kill {
            name: container.name.clone(),
            id: status.id.clone(),
            message,
            grace,
        });
    }

    fn restart(
        &self,
        container: &Container,
        ended: &ContainerStatus,
        sandbox: &str,
        plan: &mut Plan,
    ) {
        let back_off = &self.memory.part(&container.name).crashes;
        match back_off.until(nanos(ended.finished_at), self.now) {
            Some(at) => plan.wake_at(at),
            None => self.start(container, sandbox, plan),
        }
    }

    fn start(&self, container: &Container, sandbox: &str, plan: &mut Plan) {
        if self.busy(&container.name) {
            return;
        }
        let part = self.memory.part(&container.name);
        if let Some(failure) = &part.failure
            && let Some(at) = part.retries.until(failure.at, self.now)
        {
            plan.wake_at(at);
            return;
        }
        let newest = self.runtime.newest(&container.name);
        // One that was made but never ran is replaced under its own count.
        let restarts = match newest {
            None => 0,
            Some(c) if c.started_at == 0 && c.state() == ContainerState::ContainerCreated => {
                restarts(c)
            }
            Some(c) => restarts(c) + 1,
        };
        plan.actions.push(Action::Start {
            container: Box::new(container.clone()),
            restarts,
            sandbox: sandbox.to_owned(),
        });
    }

    /// Removes what is neither the newest container of its name nor the one before.
    fn old(&self, plan: &mut Plan) {
        for (name, list) in &self.runtime.containers {
            if self.busy(name) {
                continue;
            }
            let ended = |c: &&ContainerStatus| c.state() != ContainerState::ContainerRunning;
            // A container that never ran says nothing about the last run.
            let never_ran = list.iter().skip(1).filter(|c| c.started_at == 0);
            let beyond = list.iter().filter(|c| c.started_at != 0).skip(2);
            for container in never_ran.chain(beyond).filter(ended) {
                plan.actions.push(Action::Remove {
                    id: container.id.clone(),
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
