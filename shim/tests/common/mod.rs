//! A shim under test: its bundle, its process, and a client that blocks.
#![allow(
    dead_code,
    missing_docs,
    reason = "each test program uses its own part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test kit: what fails here fails the test"
)]

use rrun_task_api::any;
use rrun_task_api::client::{Client, Error};
use rrun_task_api::pb::{runc, shim, task};
use rrun_task_api::stdio::{self, Stream};
use rrun_tests::{Bundle, find_program};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The program under test.
pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-rrun-v2");

/// The OCI runtimes that are there: ours where it is built, runc where it is installed.
pub fn runtimes() -> Vec<PathBuf> {
    let own = Path::new(SHIM).with_file_name("rrun");
    let runtimes: Vec<_> = own
        .is_file()
        .then_some(own)
        .into_iter()
        .chain(find_program("runc"))
        .collect();
    assert!(
        !runtimes.is_empty(),
        "neither rrun (cargo build -p rrun) nor runc is there"
    );
    runtimes
}

/// runc, for what rrun cannot do yet.
pub fn runc() -> PathBuf {
    find_program("runc").expect("the test asks for runc")
}

/// A shim that serves.
pub struct Shim {
    pub bundle: Bundle,
    pub dir: PathBuf,
    pub id: String,
    pub client: Client,
    pub tokio: Runtime,
    pub runtime: PathBuf,
    root: TempDir,
}

impl Shim {
    /// Starts a shim for a container that runs `args`.
    pub fn start(runtime: &Path, args: &[&str]) -> Self {
        Self::start_with(runtime, args, |_| {})
    }

    /// The same, with a change to config.json.
    pub fn start_with(runtime: &Path, args: &[&str], change: impl FnOnce(&mut Bundle)) -> Self {
        let mut bundle = Bundle::new(args);
        change(&mut bundle);
        Self::start_in(bundle, runtime, |_| {})
    }

    /// The same in a bundle of the caller's, with a change to how the shim is started.
    pub fn start_in(mut bundle: Bundle, runtime: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let id = format!(
            "shimtest-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        // Where a runtime without `cgroupsPath` puts it is its own business.
        bundle.config["linux"]["cgroupsPath"] = format!("/{id}").into();
        let dir = bundle.write().to_owned();
        let mut start = command(&dir, &id);
        change(start.args(["-address", "", "start"]));
        let output = start.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&answer["version"], &answer["protocol"]),
            (&3.into(), &"ttrpc".into())
        );
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = tokio
            .block_on(Client::connect(answer["address"].as_str().unwrap()))
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        Self {
            bundle,
            dir,
            id,
            client,
            tokio,
            runtime: runtime.to_owned(),
            root,
        }
    }

    /// Runs a call to its end.
    pub fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.tokio.block_on(call)
    }

    /// A Create request with the cri-log as output.
    pub fn create_request(&self) -> task::CreateTaskRequest {
        let options = runc::Options {
            binary_name: self.runtime.display().to_string(),
            root: self.root.path().display().to_string(),
            ..Default::default()
        };
        let log = format!("cri-log://{}", self.log_path().display());
        task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.dir.display().to_string(),
            stdout: log.clone(),
            stderr: log,
            options: Some(any::pack(any::RUNC_OPTIONS, &options)),
            ..Default::default()
        }
    }

    /// Creates and starts the container.
    pub fn run(&self) -> u32 {
        self.run_as(&self.create_request())
    }

    /// The same, as the request says.
    pub fn run_as(&self, request: &task::CreateTaskRequest) -> u32 {
        let pid = self.call(self.client.create(request)).unwrap().pid;
        assert!(pid > 0);
        let start = task::StartRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        assert_eq!(self.call(self.client.start(&start)).unwrap().pid, pid);
        pid
    }

    /// Waits for the container, or an exec, to end; its exit code.
    pub fn wait(&self, exec_id: &str) -> u32 {
        let request = task::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        let limit = Duration::from_secs(200);
        self.call(self.client.wait(&request, Some(limit)))
            .unwrap()
            .exit_status
    }

    pub fn kill(&self, signal: u32) -> Result<(), Error> {
        let request = task::KillRequest {
            id: self.id.clone(),
            signal,
            ..Default::default()
        };
        self.call(self.client.kill(&request))
    }

    pub fn delete(&self, exec_id: &str) -> Result<task::DeleteResponse, Error> {
        let request = task::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        self.call(self.client.delete(&request))
    }

    pub fn status(&self) -> shim::StatusResponse {
        let request = shim::StatusRequest {
            id: self.id.clone(),
        };
        self.call(self.client.status(&request)).unwrap()
    }

    /// Starts an exec and connects to it.
    pub fn exec(&self, args: &[&str], stdin: bool, terminal: bool) -> (String, Attached) {
        let process = serde_json::json!({
            "args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        });
        self.exec_process(&process, stdin, terminal)
    }

    /// The runtime's state directory of the shim's namespace.
    pub fn state_root(&self) -> PathBuf {
        self.root.path().join("test")
    }

    /// [`Self::exec`] of a whole process.
    pub fn exec_process(
        &self,
        process: &serde_json::Value,
        stdin: bool,
        terminal: bool,
    ) -> (String, Attached) {
        let request = shim::ExecRequest {
            id: self.id.clone(),
            process: process.to_string().into_bytes(),
            terminal,
            stdin,
            stdout: true,
            stderr: true,
            width: if terminal { 91 } else { 0 },
            height: if terminal { 31 } else { 0 },
            ..Default::default()
        };
        let answer = self.call(self.client.exec_attached(&request)).unwrap();
        assert!(answer.pid > 0);
        (answer.exec_id, Attached::to(&answer.path))
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("container.log")
    }

    /// The log's lines without their times.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        text.split_terminator('\n')
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    pub fn shim_pid(&self) -> u32 {
        fs::read_to_string(self.dir.join("shim.pid"))
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Deletes the container and lets the shim go; nothing of either may be left.
    pub fn finish(self) {
        self.delete("").unwrap();
        let pid = self.shim_pid();
        let request = task::ShutdownRequest {
            id: self.id.clone(),
            now: false,
        };
        self.call(self.client.shutdown(&request)).unwrap();
        rrun_tests::wait_until("the shim's end", Duration::from_secs(10), || !runs(pid));
        self.assert_clean();
    }

    /// Nothing of the container is left on the machine but its files.
    pub fn assert_clean(&self) {
        assert!(
            !self.dir.join("shim.sock").exists(),
            "the socket is still there"
        );
        assert!(
            !self.dir.join("address").exists(),
            "the address is still there"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(&self.dir.display().to_string()),
            "mounts are left"
        );
        let leftovers: Vec<_> = fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".pid") || name.starts_with(".process"))
            .collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        assert!(!cgroups_named(&self.id), "a cgroup is left");
        let state = self.root.path().join("test").join(&self.id);
        assert!(!state.exists(), "the runtime's state is left");
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let Ok(pid) = fs::read_to_string(self.dir.join("shim.pid")) else {
            return;
        };
        if runs(pid.parse().unwrap_or(0)) && self.dir.join("shim.sock").exists() {
            kill_by_pid(&pid, "KILL");
            let _ = command(&self.dir, &self.id).arg("delete").output();
        }
    }
}

/// The shim with its usual flags in a bundle.
pub fn command(bundle: &Path, id: &str) -> Command {
    let mut command = Command::new(SHIM);
    command
        .current_dir(bundle)
        .env_remove("TTRPC_ADDRESS")
        .args(["-namespace", "test", "-id", id])
        .stdin(Stdio::null());
    command
}

/// Sends a signal to one process.
pub fn kill_by_pid(pid: &str, signal: &str) {
    assert!(
        Command::new("kill")
            .args([&format!("-{signal}"), pid])
            .status()
            .unwrap()
            .success()
    );
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Whether a cgroup of this name is anywhere.
pub fn cgroups_named(id: &str) -> bool {
    fn search(dir: &Path, id: &str, depth: u32) -> bool {
        let Ok(entries) = fs::read_dir(dir) else {
            return false;
        };
        entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .any(|entry| {
                entry.file_name().to_string_lossy().contains(id)
                    || depth > 0 && search(&entry.path(), id, depth - 1)
            })
    }
    search(Path::new("/sys/fs/cgroup"), id, 4)
}

/// The client's end of an attach stream.
pub struct Attached(pub UnixStream);

impl Attached {
    pub fn to(path: &str) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(100)))
            .unwrap();
        Self(stream)
    }

    /// Sends input; none closes the process's standard input.
    pub fn send(&mut self, data: &[u8]) {
        self.0
            .write_all(&stdio::header(Stream::Stdin, data.len()))
            .unwrap();
        self.0.write_all(data).unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<(Stream, Vec<u8>)> {
        let mut head = [0; stdio::HEADER];
        self.0.read_exact(&mut head).ok()?;
        let (stream, length) = stdio::parse(head).unwrap();
        let mut data = vec![0; length];
        self.0.read_exact(&mut data).ok()?;
        Some((stream, data))
    }

    /// Everything until the end of the stream: stdout and stderr.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.frame().expect("the stream ends with an end frame") {
                (Stream::Stdout, data) => out.extend(data),
                (Stream::Stderr, data) => err.extend(data),
                (Stream::End, _) => return (out, err),
                (Stream::Stdin, _) => panic!("the shim sent input"),
            }
        }
    }
}
