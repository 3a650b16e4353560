//! What the shim knows of its containers and their processes.

use crate::cgroup::Cgroup;
use crate::command::{Command, Template};
use crate::io::{Io, Stdio};
use crate::machine::Life;
use crate::oom::Watch;
use crate::peer::Link;
use crate::poll::Key;
use crate::runtime::Runtime;
use rrun_task_api::pb::Timestamp;
use rrun_task_api::pb::task::StateResponse;
use rrun_task_api::time::from_nanos;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who waits for an answer: a connection and a stream on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The connection.
    pub conn: Key,
    /// The stream.
    pub stream: u32,
}

/// A container.
pub struct Container {
    /// Its directory.
    pub bundle: PathBuf,
    /// The program that made it.
    pub runtime: Runtime,
    /// The way to the shim that runs it, where that is another's.
    pub link: Option<Link>,
    /// Its first process.
    pub init: Key,
    /// Processes added later, by id.
    pub execs: BTreeMap<String, Key>,
    /// Where its processes are counted.
    pub cgroup: Cgroup,
    /// Tells of processes killed for memory.
    pub oom: Option<Watch>,
    /// A process was.
    pub oom_killed: bool,
    /// User and group that get its pipes, where the options name them.
    pub io_owner: Option<(u32, u32)>,
    /// Directory of the checkpoint that it starts from; empty for a container from scratch.
    pub checkpoint: String,
    /// How commands enter it, once one has.
    pub template: Option<Template>,
}

/// A container's first process, or an exec.
pub struct Process {
    /// Its container's id.
    pub container: String,
    /// Its own id; empty for the first process.
    pub exec_id: String,
    /// Where in its life it is.
    pub life: Life,
    /// What was asked for.
    pub stdio: Stdio,
    /// What came of it.
    pub io: Io,
    /// Its pid on the host; 0 until there is one.
    pub pid: u32,
    /// Names it for as long as we hold it.
    pub pidfd: Option<OwnedFd>,
    /// With the pid, names it for others.
    pub start_time: u64,
    /// Nanoseconds since the epoch.
    pub created_at: u64,
    /// Nanoseconds since the epoch; 0 until it was started.
    pub started_at: u64,
    /// Who waits for its end.
    pub waiters: Vec<Caller>,
    /// The JSON of an exec's process.
    pub spec: Vec<u8>,
    /// It is no child of ours: another shim runs it.
    pub remote: bool,
    /// For an exec that one call waits for to its end.
    pub command: Option<Box<Command>>,
}

impl Process {
    /// Whether it has begun, and has not ended as far as we know.
    pub fn is_alive(&self) -> bool {
        self.pidfd.is_some() || self.remote && self.pid != 0 && !self.life.has_ended()
    }

    /// The exit code that the Task API shows, and when; zeroes before the end.
    pub fn exit_status(&self) -> (u32, Option<Timestamp>) {
        self.life
            .exit()
            .map_or((0, None), |exit| (exit.code, Some(from_nanos(exit.at))))
    }

    /// The id that events name it by: the exec's, or the container's.
    pub fn event_id(&self) -> &str {
        if self.exec_id.is_empty() {
            &self.container
        } else {
            &self.exec_id
        }
    }

    /// Answer of State.
    pub fn state(&self, bundle: String) -> StateResponse {
        let (exit_status, exited_at) = self.exit_status();
        StateResponse {
            id: self.container.clone(),
            bundle,
            pid: self.pid,
            status: self.life.shown().into(),
            stdin: self.stdio.stdin.clone(),
            stdout: self.stdio.stdout.clone(),
            stderr: self.stdio.stderr.clone(),
            terminal: self.stdio.terminal,
            exit_status,
            exited_at,
            exec_id: self.exec_id.clone(),
        }
    }
}
