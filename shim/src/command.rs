//! Commands that one call waits for to their end: what such a call is told, and how a command enters
//! its container without the configuration being read each time.

use crate::container::{Caller, Container};
use crate::enter::Plan;
use crate::io::at;
use crate::poll::Key;
use rrun_task_api::pb::shim::ExecSyncResponse;
use rrun_task_api::{Code, Status};
use rustix::fd::OwnedFd;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of output that an answer holds; a command that writes more gets a socket for it.
const KEPT: usize = 256 * 1024;

/// Why a command is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    /// It ran for too long.
    TimedOut,
    /// Nobody waits for it any more.
    Abandoned,
}

/// A command and the call that waits for it.
pub struct Command {
    /// Who asked.
    pub caller: Caller,
    /// Where it says why its program could not be executed; ends with its exec.
    pub report: Option<OwnedFd>,
    /// Why it is killed.
    pub doom: Option<Doom>,
    /// The probe that it is a run of: what comes of it is for that.
    pub probe: Option<Key>,
    /// The caller was answered: it attaches to the output, and ends the command as any exec.
    pub is_handed_over: bool,
    written: [Vec<u8>; 2],
}

impl Command {
    /// For a call.
    pub fn new(caller: Caller) -> Self {
        Self {
            caller,
            report: None,
            doom: None,
            probe: None,
            is_handed_over: false,
            written: [Vec::new(), Vec::new()],
        }
    }

    /// Keeps output of stream `number` (1 stdout, 2 stderr); of a probe what an answer holds.
    pub fn keep(&mut self, number: u8, data: &[u8]) {
        let room = match self.probe {
            Some(_) => KEPT - self.written.iter().map(Vec::len).sum::<usize>(),
            None => data.len(),
        };
        let data = &data[..data.len().min(room)];
        self.written[usize::from(number - 1)].extend_from_slice(data);
    }

    /// Whether it wrote more than an answer holds.
    pub fn is_outgrown(&self) -> bool {
        !self.is_handed_over && self.written.iter().map(Vec::len).sum::<usize>() > KEPT
    }

    /// What was kept.
    pub fn take_written(&mut self) -> [Vec<u8>; 2] {
        std::mem::take(&mut self.written)
    }

    /// What came of it once it has ended with this code.
    pub fn outcome(mut self, exit_status: u32) -> Result<ExecSyncResponse, Status> {
        if let Some(why) = self.report.take().and_then(refusal) {
            return Err(not_started(&why));
        }
        let [stdout, stderr] = self.written;
        Ok(ExecSyncResponse {
            exit_status,
            stdout,
            stderr,
            timed_out: self.doom == Some(Doom::TimedOut),
            path: String::new(),
        })
    }
}

/// What an entering process reported; nothing where it executed its program.
pub fn refusal(report: OwnedFd) -> Option<String> {
    let mut why = Vec::new();
    // What cannot be read still says that there is a report.
    let read = File::from(report).take(64 * 1024).read_to_end(&mut why);
    (read.is_err() || !why.is_empty()).then(|| String::from_utf8_lossy(&why).trim_end().to_owned())
}

/// The error of an exec whose program was not executed, worded as callers look for it.
pub fn not_started(why: &str) -> Status {
    Status::new(
        Code::Unknown,
        format!("OCI runtime exec failed: unable to start container process: {why}"),
    )
}

/// How commands enter a container: made of its configuration once, and again where that was replaced.
pub struct Template {
    stamp: Stamp,
    /// `None`: they are left to the runtime.
    pub plan: Option<Plan>,
}

/// Tells one content of a file from another.
type Stamp = (u64, i64, i64, u64);

#[derive(Deserialize)]
struct Config {
    process: serde_json::Map<String, serde_json::Value>,
}

impl Template {
    /// Brings a container's template up to date.
    pub fn refresh(container: &mut Container, id: &str) -> Result<(), Status> {
        let path = container.bundle.join("config.json");
        let stat = fs::metadata(&path).map_err(at("look at", &path))?;
        let stamp = (stat.ino(), stat.mtime(), stat.mtime_nsec(), stat.size());
        if container
            .template
            .as_ref()
            .is_some_and(|known| known.stamp == stamp)
        {
            return Ok(());
        }
        let process = process(&path)?;
        let runtime = &container.runtime;
        let plan = runtime.own_state(id).and_then(|state| {
            let cgroup = &container.cgroup;
            Plan::new(&state, &process, cgroup, runtime.no_new_keyring)
        });
        container.template = Some(Self { stamp, plan });
        Ok(())
    }
}

/// JSON of a container's process, not on a terminal.
fn process(config: &Path) -> Result<Vec<u8>, Status> {
    process_with(config, |_| {})
}

/// The same with other arguments.
pub fn process_of(bundle: &Path, args: &[String]) -> Result<Vec<u8>, Status> {
    process_with(&bundle.join("config.json"), |process| {
        process.insert("args".to_owned(), args.into());
    })
}

fn process_with(
    path: &Path,
    change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
) -> Result<Vec<u8>, Status> {
    let text = fs::read(path).map_err(at("read", path))?;
    let mut process = serde_json::from_slice::<Config>(&text)
        .map_err(at("parse", path))?
        .process;
    process.insert("terminal".to_owned(), false.into());
    change(&mut process);
    serde_json::to_vec(&process).map_err(at("take the process from", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new(Caller { conn: 1, stream: 1 })
    }

    #[test]
    fn what_was_written_is_in_the_answer() {
        let mut command = command();
        command.keep(1, b"out");
        command.keep(2, b"err");
        command.keep(1, b"put");
        let answer = command.outcome(3).unwrap();
        assert_eq!(answer.stdout, b"output");
        assert_eq!(answer.stderr, b"err");
        assert_eq!((answer.exit_status, answer.timed_out), (3, false));
    }

    #[test]
    fn both_streams_together_are_limited() {
        let mut command = command();
        command.keep(1, &vec![0; KEPT / 2]);
        command.keep(2, &vec![0; KEPT / 2]);
        assert!(!command.is_outgrown());
        command.keep(2, b"x");
        assert!(command.is_outgrown());
        command.is_handed_over = true;
        assert!(!command.is_outgrown());
    }

    #[test]
    fn of_a_probe_what_an_answer_holds_is_kept() {
        let mut command = command();
        command.probe = Some(1);
        command.keep(1, &vec![0; KEPT - 1]);
        command.keep(2, b"err");
        assert!(!command.is_outgrown());
        assert_eq!(command.outcome(1).unwrap().stderr, b"e");
    }

    #[test]
    fn a_report_is_an_error_even_if_it_is_no_text() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"exec \xff\n").unwrap();
        drop(writer);
        let mut command = command();
        command.report = Some(reader);
        let status = command.outcome(255).unwrap_err();
        assert!(
            status.message.contains("process: exec \u{fffd}"),
            "{status}"
        );
    }

    #[test]
    fn an_empty_report_is_none() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(writer);
        assert_eq!(refusal(reader), None);
    }

    #[test]
    fn the_process_of_a_command_is_the_containers_with_other_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"process":{"args":["sleep"],"cwd":"/w","terminal":true},"root":{}}"#;
        fs::write(dir.path().join("config.json"), config).unwrap();
        let process = process_of(dir.path(), &["true".to_owned()]).unwrap();
        let text = String::from_utf8(process).unwrap();
        assert_eq!(text, r#"{"args":["true"],"cwd":"/w","terminal":false}"#);
    }
}
