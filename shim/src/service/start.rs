//! Create, Exec and Start: the RPCs that make processes.

use super::{ask, empty, now, taken};
use crate::args::check_id;
use crate::cgroup::Cgroup;
use crate::container::{Caller, Container, Process};
use crate::enter::{self, Entering};
use crate::io::{Given, Io, Owner, Stdio, at, failed};
use crate::machine::{Ask, Life, Verdict};
use crate::ops::{Kind, gone, text};
use crate::peer::Peer;
use crate::poll::{Interest, Key, Token};
use crate::rootfs;
use crate::runtime::{Fds, Runtime};
use crate::server::{Answer, Call, Reply, Shim, forget};
use rrun_task_api::Status;
use rrun_task_api::pb::runc::Options;
use rrun_task_api::pb::task::{
    CreateTaskRequest, CreateTaskResponse, ExecProcessRequest, StartRequest,
};
use rrun_task_api::time::now_nanos;
use rustix::fd::AsFd;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

impl Shim {
    /// Task API: Create.
    pub fn create(&mut self, call: &Call, request: &CreateTaskRequest) -> Answer {
        check_id(&request.id).map_err(Status::invalid)?;
        if self.containers.contains_key(&request.id) {
            return Err(taken("container", &request.id));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() || !bundle.join("config.json").is_file() {
            let message = format!("bundle {:?} holds no config.json", request.bundle);
            return Err(Status::invalid(message));
        }
        let peer = crate::options::peer(request.options.as_ref())?;
        let options = match peer {
            Some(_) => Options::default(),
            None => crate::options::decode(request.options.as_ref())?,
        };
        if !options.shim_cgroup.is_empty() {
            Cgroup::join(&options.shim_cgroup, std::process::id())
                .map_err(failed("join the shim's cgroup"))?;
        }
        let mut runtime = Runtime::new(&options, &self.args.namespace);
        runtime.peer = peer.as_ref().map(|peer| Peer {
            program: PathBuf::from(&peer.program),
            ..Peer::default()
        });
        runtime
            .save(&bundle)
            .map_err(at("keep the options in", &bundle))?;
        let key = self.add_container(request, bundle, runtime, &options);
        if let Some(process) = self.processes.get_mut(&key) {
            process.remote = peer.is_some();
        }
        let started = if let Some(peer) = peer {
            let request = CreateTaskRequest {
                options: peer.options,
                ..request.clone()
            };
            self.create_by_peer(key, call.caller, request)
        } else if request.checkpoint.is_empty() {
            self.run_create(key, call.caller, request)
        } else {
            self.await_restore(key, request)
        };
        if started.is_err() {
            self.forget_container(key);
        }
        started
    }

    fn add_container(
        &mut self,
        request: &CreateTaskRequest,
        bundle: PathBuf,
        runtime: Runtime,
        options: &Options,
    ) -> Key {
        let key = self.new_key();
        let stdio = Stdio {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let container = Container {
            bundle,
            runtime,
            link: None,
            init: key,
            execs: BTreeMap::new(),
            cgroup: Cgroup::default(),
            oom: None,
            oom_killed: false,
            io_owner: Some((options.io_uid, options.io_gid)).filter(|ids| *ids != (0, 0)),
            checkpoint: request.checkpoint.clone(),
            template: None,
        };
        let process = new_process(&request.id, "", Life::container(), stdio);
        self.containers.insert(request.id.clone(), container);
        self.processes.insert(key, process);
        key
    }

    fn run_create(&mut self, key: Key, caller: Caller, request: &CreateTaskRequest) -> Answer {
        let container = self.container_of(key)?;
        let (bundle, no_pivot, no_keyring) = (
            container.bundle.clone(),
            container.runtime.no_pivot,
            container.runtime.no_new_keyring,
        );
        let exit = bundle.join(rrun_task_api::exit::FILE);
        forget(&exit);
        rootfs::mount_all(&request.rootfs, &bundle.join("rootfs"))?;
        let given = self.open_io(key)?;
        let pid_file = self.pid_file(key)?;
        let console = self.console_path(key);
        let mut args = vec![
            "create",
            "--bundle",
            text(&bundle)?,
            "--pid-file",
            text(&pid_file)?,
        ];
        if no_pivot {
            args.push("--no-pivot");
        }
        if no_keyring {
            args.push("--no-new-keyring");
        }
        if let Some(path) = &console {
            args.extend(["--console-socket", text(path)?]);
        }
        args.push(&request.id);
        self.start_op(Kind::Create, key, Some(caller), &args, fds(given.as_ref()))?;
        Ok(Reply::Pending)
    }

    /// A container from a checkpoint has no process before its start.
    fn await_restore(&mut self, key: Key, request: &CreateTaskRequest) -> Answer {
        let bundle = self.container_of(key)?.bundle.clone();
        forget(&bundle.join(rrun_task_api::exit::FILE));
        rootfs::mount_all(&request.rootfs, &bundle.join("rootfs"))?;
        self.processes
            .get_mut(&key)
            .ok_or_else(gone)?
            .life
            .done(true);
        self.publish_create(key)?;
        now(&CreateTaskResponse { pid: 0 })
    }

    fn run_restore(&mut self, key: Key, caller: Caller, id: &str) -> Result<(), Status> {
        let container = self.container_of(key)?;
        let (bundle, checkpoint) = (container.bundle.clone(), container.checkpoint.clone());
        let work = bundle.join("work");
        let given = self.open_io(key)?;
        let pid_file = self.pid_file(key)?;
        let console = self.console_path(key);
        let mut args = vec![
            "restore",
            "--detach",
            "--image-path",
            &checkpoint,
            "--work-path",
            text(&work)?,
            "--bundle",
            text(&bundle)?,
            "--pid-file",
            text(&pid_file)?,
        ];
        if let Some(path) = &console {
            args.extend(["--console-socket", text(path)?]);
        }
        args.push(id);
        self.start_op(Kind::Restore, key, Some(caller), &args, fds(given.as_ref()))
    }

    /// Task API: Exec.
    pub fn exec(&mut self, request: &ExecProcessRequest) -> Answer {
        let spec = request.spec.as_ref().map_or(&[][..], |spec| &spec.value);
        let stdio = Stdio {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        match self.add_exec(&request.id, &request.exec_id, spec, stdio)? {
            Some(_) => {
                self.exec_added(&request.id, &request.exec_id);
                empty()
            }
            None => Ok(Reply::Later),
        }
    }

    /// Adds an exec; `None` if that is too early.
    pub fn add_exec(
        &mut self,
        id: &str,
        exec_id: &str,
        spec: &[u8],
        stdio: Stdio,
    ) -> Result<Option<Key>, Status> {
        check_id(exec_id).map_err(Status::invalid)?;
        if self.find(id, exec_id).is_ok() {
            return Err(taken("exec", exec_id));
        }
        match self.process(id, "")?.life.ask(Ask::Exec) {
            Verdict::Go => {}
            Verdict::Later => return Ok(None),
            Verdict::Refused(status) => return Err(status),
        }
        let spec = with_terminal(spec, stdio.terminal)?;
        crate::uri::source(&stdio.stdin)?;
        crate::uri::target(&stdio.stdout)?;
        crate::uri::target(&stdio.stderr)?;
        let key = self.new_key();
        let mut process = new_process(id, exec_id, Life::exec(), stdio);
        process.spec = spec;
        process.remote = self.is_peers(self.find(id, "")?);
        self.processes.insert(key, process);
        self.container_mut(key)?
            .execs
            .insert(exec_id.to_owned(), key);
        Ok(Some(key))
    }

    /// Task API: Start.
    pub fn start(&mut self, call: &Call, request: &StartRequest) -> Answer {
        let key = self.find(&request.id, &request.exec_id)?;
        ask!(self.processes.get_mut(&key).ok_or_else(gone)?, Ask::Start);
        if request.exec_id.is_empty() {
            let container = self.container_of(key)?;
            let started = if container.checkpoint.is_empty() {
                let args = ["start", &request.id];
                self.start_op(Kind::Start, key, Some(call.caller), &args, Fds::None)
            } else {
                self.run_restore(key, call.caller, &request.id)
            };
            return self.pending(key, started);
        }
        let started = self.run_exec(key, call.caller, Kind::Exec(None));
        self.pending(key, started)
    }

    /// Starts an exec: by itself where it can, else by the runtime.
    pub fn run_exec(&mut self, key: Key, caller: Caller, kind: Kind) -> Result<(), Status> {
        if self.is_peers(key) {
            return self.exec_by_peer(key, caller, kind);
        }
        let given = self.open_io(key)?;
        let started = match self.enter(key, given.as_ref()) {
            Some(entering) => self.await_entry(kind, key, caller, entering),
            None => self.exec_by_runtime(key, Some(caller), kind, given.as_ref()),
        };
        if started.is_err()
            && let Some(process) = self.processes.get_mut(&key)
        {
            process.io.close(&self.poller);
        }
        started
    }

    /// Clones the process of an exec into its container; `None` where that is for the runtime.
    fn enter(&self, key: Key, given: Option<&Given>) -> Option<Entering> {
        let given = given.filter(|_| self.sealed)?;
        let process = self.processes.get(&key)?;
        let container = self.container_of(key).ok()?;
        let state = container.runtime.own_state(&process.container)?;
        let no_keyring = container.runtime.no_new_keyring;
        let plan = enter::Plan::new(&state, &process.spec, &container.cgroup, no_keyring)?;
        let init = self.processes.get(&container.init)?.pidfd.as_ref()?;
        let stdio = [&given.stdin, &given.stdout, &given.stderr].map(AsFd::as_fd);
        match enter::enter(&plan, init.as_fd(), stdio) {
            Ok(entering) => Some(entering),
            Err(error) => {
                self.warn(&format!("exec is left to the runtime: {error}"));
                None
            }
        }
    }

    pub(super) fn exec_by_runtime(
        &mut self,
        key: Key,
        caller: Option<Caller>,
        kind: Kind,
        given: Option<&Given>,
    ) -> Result<(), Status> {
        let (spec_file, pid_file) = (self.spec_file(key)?, self.pid_file(key)?);
        let process = self.processes.get(&key).ok_or_else(gone)?;
        write_private(&spec_file, &process.spec).map_err(at("write", &spec_file))?;
        let id = process.container.clone();
        let console = self.console_path(key);
        let mut args = vec![
            "exec",
            "--process",
            text(&spec_file)?,
            "--pid-file",
            text(&pid_file)?,
            "--detach",
        ];
        if let Some(path) = &console {
            args.extend(["--console-socket", text(path)?]);
        }
        args.push(&id);
        let started = self.start_op(kind, key, caller, &args, fds(given));
        if started.is_err() {
            forget(&spec_file);
        }
        started
    }

    /// Opens a process's stdio. What the runtime is to get is returned; nothing for a terminal.
    fn open_io(&mut self, key: Key) -> Result<Option<Given>, Status> {
        let process = self.processes.get(&key).ok_or_else(gone)?;
        let (stdio, id) = (process.stdio.clone(), process.container.clone());
        let size = process.io.size;
        let owner = Owner {
            key,
            id: &id,
            namespace: &self.args.namespace,
        };
        let (mut io, given) = if stdio.terminal {
            let io = Io::terminal(&stdio, &owner, &self.socket_path('c', key))?;
            if let Some(console) = &io.console {
                self.poller
                    .add(&console.listener, Token::Console(key), Interest::IN)
                    .map_err(failed("watch the console socket"))?;
            }
            (io, None)
        } else {
            let (io, given) = Io::pipes(&stdio, &owner, &self.poller)?;
            if let Some((uid, gid)) = self.container_of(key)?.io_owner {
                given
                    .chown(uid, gid)
                    .map_err(failed("give stdio to its owner"))?;
            }
            (io, Some(given))
        };
        io.size = size;
        self.processes.get_mut(&key).ok_or_else(gone)?.io = io;
        Ok(given)
    }

    fn console_path(&self, key: Key) -> Option<PathBuf> {
        let process = self.processes.get(&key)?;
        process
            .io
            .console
            .as_ref()
            .map(|console| console.path.clone())
    }
}

fn fds(given: Option<&Given>) -> Fds<'_> {
    given.map_or(Fds::None, |given| {
        Fds::Stdio(
            given.stdin.as_fd(),
            given.stdout.as_fd(),
            given.stderr.as_fd(),
        )
    })
}

pub(super) fn new_process(id: &str, exec_id: &str, life: Life, stdio: Stdio) -> Process {
    Process {
        container: id.to_owned(),
        exec_id: exec_id.to_owned(),
        life,
        stdio,
        io: Io::default(),
        pid: 0,
        pidfd: None,
        start_time: 0,
        created_at: now_nanos(),
        started_at: 0,
        waiters: Vec::new(),
        spec: Vec::new(),
        remote: false,
        command: None,
    }
}

/// The process of an exec, with `terminal` as the request has it: both say it, and the runtime
/// reads only one.
fn with_terminal(spec: &[u8], terminal: bool) -> Result<Vec<u8>, Status> {
    let mut spec: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(spec)
        .map_err(|e| Status::invalid(format!("exec's process is not a JSON object: {e}")))?;
    spec.insert("terminal".to_owned(), terminal.into());
    serde_json::to_vec(&spec).map_err(|e| Status::internal(format!("exec's process: {e}")))
}

/// Writes a file that may hold secrets (an exec's environment).
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_terminal_wins() {
        let spec = with_terminal(br#"{"args":["sh"],"terminal":true}"#, false).unwrap();
        let text = String::from_utf8(spec).unwrap();
        assert_eq!(text, r#"{"args":["sh"],"terminal":false}"#);
        assert!(with_terminal(b"", true).is_err());
        assert!(with_terminal(b"[]", true).is_err());
    }
}
