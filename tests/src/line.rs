//! rrun-cri and rrun-pods of a test's own, with an image of busybox: real pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{Port, busybox_rootfs, program, wait_until};

/// How long pods get for what they do.
pub const PATIENCE: Duration = Duration::from_secs(40);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The daemons and everything they may write. When it is dropped, its pods go, and then it.
pub struct Line {
    directory: tempfile::TempDir,
    bridge: String,
    services: String,
    arguments: Vec<String>,
    port: Port,
    cri: Option<Child>,
    pods: Option<Child>,
}

impl Line {
    /// The image that every pod can use.
    pub const IMAGE: &str = "localhost/busybox:test";

    /// Starts both and waits until the node is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments of `rrun-pods serve`; `{dir}` in them is the line's
    /// directory.
    ///
    /// # Panics
    ///
    /// Where a program is missing or does not come up.
    pub fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let here = directory.path().display().to_string();
        let mut line = Self {
            // An interface name has at most 15 characters.
            bridge: format!("rrl{}x{number}", id % 10_000_000),
            // Two lines at a time must not both lead the same addresses anywhere.
            services: format!("10.{}.{}.0/24", 200 + number % 50, id % 256),
            arguments: arguments
                .iter()
                .map(|a| a.replace("{dir}", &here))
                .collect(),
            directory,
            port: Port::take(),
            cri: None,
            pods: None,
        };
        line.build_image();
        line.start_cri();
        line.start_pods();
        wait_until("a ready node", PATIENCE, || {
            let ready = "{.items[0].status.conditions[?(@.type==\"Ready\")].status}";
            line.get(&["nodes", "-o", &format!("jsonpath={ready}")]) == "True"
        });
        line
    }

    fn build_image(&self) {
        let layer = self.path("layer");
        busybox_rootfs(&layer);
        let built = Command::new(program("rrun-image"))
            .arg("--store")
            .arg(self.path("images"))
            .args(["build-layers", "-t", Self::IMAGE, "--env", "PATH=/bin"])
            .args(["--cmd", r#"["sleep","100000"]"#])
            .arg(&layer)
            .stdout(Stdio::null())
            .status();
        assert!(
            built.expect("rrun-image starts").success(),
            "rrun-image build-layers"
        );
    }

    /// A file in the line's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The name of the table of Services.
    pub fn table(&self) -> String {
        format!("rrun-{}", self.bridge)
    }

    fn log(&self, name: &str) -> Stdio {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(name));
        log.expect("a log").into()
    }

    /// Starts rrun-cri, again.
    pub fn start_cri(&mut self) {
        let dir = |name: &str| self.path(name);
        let child = Command::new(program("rrun-cri"))
            .arg("serve")
            .arg("--root")
            .arg(dir("cri"))
            .arg("--state")
            .arg(dir("cri-run"))
            .arg("--store")
            .arg(dir("images"))
            .arg("--runtime-root")
            .arg(dir("run"))
            .arg("--cni-conf-dir")
            .arg(dir("no-cni"))
            .args(["--bridge", &self.bridge])
            .arg("--listen")
            .arg(format!("unix://{}", dir("cri.sock").display()))
            .stdin(Stdio::null())
            .stdout(self.log("cri.log"))
            .stderr(self.log("cri.log"))
            .spawn();
        self.cri = Some(child.expect("rrun-cri starts"));
        self.await_socket("cri.sock");
    }

    /// Starts rrun-pods, again.
    ///
    /// # Panics
    ///
    /// Where it does not start on any of five ports.
    pub fn start_pods(&mut self) {
        let started = (0..5).any(|attempt| {
            if attempt > 0 {
                // Somebody who is none of ours took it.
                self.port = Port::take();
            }
            let mut child = self.spawn_pods();
            let socket = self.path("pods.sock");
            let mut ended = false;
            wait_until("pods.sock", PATIENCE, || {
                ended = child.try_wait().is_ok_and(|status| status.is_some());
                ended || std::os::unix::net::UnixStream::connect(&socket).is_ok()
            });
            self.pods = Some(child);
            !ended
        });
        let log = fs::read_to_string(self.path("pods.log")).unwrap_or_default();
        assert!(started, "rrun-pods does not start: {log}");
    }

    fn spawn_pods(&self) -> Child {
        let child = Command::new(program("rrun-pods"))
            .arg("--socket")
            .arg(self.path("pods.sock"))
            .arg("serve")
            .arg("--root")
            .arg(self.path("pods"))
            .arg("--cri")
            .arg(self.path("cri.sock"))
            .arg("--log-dir")
            .arg(self.path("logs"))
            .args(["--listen", &format!("127.0.0.1:{}", self.port.number())])
            .args(["--service-table", &self.table()])
            .args(["--service-cidr", &self.services])
            .args(self.evictions())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(self.log("pods.log"))
            .stderr(self.log("pods.log"))
            .spawn();
        child.expect("rrun-pods starts")
    }

    /// A machine that is nearly full of other things evicts no pod of a test, unless that is the test.
    fn evictions(&self) -> &'static [&'static str] {
        let own = self.arguments.iter().any(|a| a == "--eviction-hard");
        if own {
            &[]
        } else {
            &["--eviction-hard", "none"]
        }
    }

    /// Waits until the runtime has nothing left. A pod without a grace period leaves the API before
    /// its containers leave the machine.
    fn await_nothing(&self) {
        let end = Instant::now() + PATIENCE;
        let left = |kind: &str| {
            let entries = fs::read_dir(self.path("cri-run").join(kind));
            // An id, not a file of the daemon's own.
            let mut ids = entries.into_iter().flatten().flatten();
            ids.any(|e| e.file_name().len() >= 16)
        };
        while (left("sandboxes") || left("containers")) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn await_socket(&self, name: &str) {
        let socket = self.path(name);
        wait_until(name, PATIENCE, || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// kill -9 of rrun-cri.
    pub fn kill_cri(&mut self) {
        kill(self.cri.take());
        let _ = fs::remove_file(self.path("cri.sock"));
    }

    /// kill -9 of rrun-pods.
    pub fn kill_pods(&mut self) {
        kill(self.pods.take());
        let _ = fs::remove_file(self.path("pods.sock"));
    }

    /// Ends rrun-pods as a service manager does.
    pub fn stop_pods(&mut self) {
        terminate(self.pods.take());
    }

    /// Runs a command of rrun-pods.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("rrun-pods"));
        command
            .arg("--socket")
            .arg(self.path("pods.sock"))
            .args(arguments);
        command
            .stdin(Stdio::null())
            .output()
            .expect("rrun-pods starts")
    }

    /// Runs a command that must not fail, and gives what it prints.
    ///
    /// # Panics
    ///
    /// Where it fails.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rrun-pods {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `get`, empty where that fails.
    pub fn get(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["get"], arguments].concat());
        if output.status.success() {
            String::from_utf8_lossy(&output.stdout).into_owned()
        } else {
            String::new()
        }
    }

    /// Applies objects given as YAML or JSON.
    ///
    /// # Panics
    ///
    /// Where they are refused.
    pub fn apply(&self, manifest: &str) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = self.path(&format!("manifest-{number}.yaml"));
        fs::write(&file, manifest).expect("a manifest");
        self.must(&["apply", "-f", &file.display().to_string()]);
    }

    /// Waits until a pod is ready.
    pub fn await_ready(&self, namespace: &str, pod: &str) {
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        wait_until(&format!("pod {pod} to be ready"), PATIENCE, || {
            self.get(&["-n", namespace, "pod", pod, "-o", ready]) == "True"
        });
    }

    /// Runs a shell's words in a pod: whether they succeeded, and what they printed.
    pub fn shell(&self, namespace: &str, pod: &str, words: &str) -> (bool, String) {
        let output = self.run(&["-n", namespace, "exec", pod, "--", "sh", "-c", words]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Ends a daemon as a service manager does.
fn terminate(child: Option<Child>) {
    let Some(mut child) = child else { return };
    let pid = i32::try_from(child.id()).ok();
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // Our own child, which has not been waited for: the number is still its.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = child.wait();
}

impl Drop for Line {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["cri.log", "pods.log"] {
                let text = fs::read_to_string(self.path(log)).unwrap_or_default();
                eprintln!("--- {log}\n{text}");
            }
        }
        let _ = self.run(&["down", "--timeout", "60"]);
        self.await_nothing();
        terminate(self.pods.take());
        terminate(self.cri.take());
        clean(&self.bridge, &self.table());
    }
}

/// What a line that failed may leave.
fn clean(bridge: &str, table: &str) {
    let quiet = |program: &str, arguments: &[&str]| {
        let found = crate::find_program(program).unwrap_or_else(|| Path::new(program).into());
        let mut command = Command::new(found);
        let _ = command.args(arguments).stderr(Stdio::null()).status();
    };
    quiet("ip", &["link", "delete", bridge]);
    for table in [table.to_owned(), format!("{table}-policy")] {
        quiet("nft", &["delete", "table", "inet", &table]);
    }
}
