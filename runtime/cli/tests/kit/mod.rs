//! What the black-box tests of `rrun` share: a root directory of their own, and
//! containers that are gone when the test ends, however it ends.
#![allow(dead_code, reason = "each test file uses a part")]

use rrun_tests::Bundle;
use serde_json::Value;
use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// `rrun` with a root directory of its own.
pub struct Runtime {
    root: TempDir,
    ids: RefCell<Vec<String>>,
}

/// What a command printed and returned.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.err
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Runtime {
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        Self {
            root,
            ids: RefCell::default(),
        }
    }

    /// A container id that no other test uses, deleted at the end.
    pub fn id(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("rrun-test-{}-{number}", std::process::id());
        self.ids.borrow_mut().push(id.clone());
        id
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of rrun to its end.
    pub fn rrun(&self, args: &[&str]) -> Ran {
        self.command(args)
            .output()
            .expect("rrun is executed")
            .into()
    }

    /// Runs a container of `bundle` to its end.
    pub fn run(&self, bundle: &Bundle) -> Ran {
        let dir = bundle.write().to_str().expect("a path of text").to_owned();
        self.rrun(&["run", "--bundle", &dir, &self.id()])
    }

    /// Creates a container of `bundle`, its standard streams at /dev/null.
    pub fn create(&self, bundle: &Bundle) -> (String, Ran) {
        let id = self.id();
        let dir = bundle.write().to_str().expect("a path of text").to_owned();
        // Not pipes: the container would keep them open.
        let log = self.root.path().with_extension("log");
        let status = self
            .command(&[
                "--log",
                log.to_str().expect("text"),
                "create",
                "--bundle",
                &dir,
                &id,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("rrun is executed");
        let err = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        (
            id,
            Ran {
                code: status.code().unwrap_or(-1),
                out: String::new(),
                err,
            },
        )
    }

    /// Creates and starts a container of `bundle`.
    pub fn start(&self, bundle: &Bundle) -> String {
        let (id, created) = self.create(bundle);
        created.ok();
        self.rrun(&["start", &id]).ok();
        id
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.rrun(&["state", id]).ok()).expect("state is JSON")
    }

    /// Waits until the container has `status`.
    #[track_caller]
    pub fn wait_for(&self, id: &str, status: &str) {
        let limit = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while self.state(id)["status"] != status {
            assert!(
                std::time::Instant::now() < limit,
                "{id} does not become {status}"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for id in self.ids.borrow().iter() {
            let _ = self.rrun(&["delete", "--force", id]);
        }
    }
}

/// A bundle that runs `script` in a shell.
pub fn shell(script: &str) -> Bundle {
    Bundle::new(&["sh", "-c", script])
}

/// Adds a mount at the end.
pub fn add_mount(bundle: &mut Bundle, mount: Value) {
    bundle.config["mounts"]
        .as_array_mut()
        .expect("mounts")
        .push(mount);
}

/// Adds a user namespace that maps its ids 0 to 65535 to the host's from 100000.
pub fn add_user_namespace(bundle: &mut Bundle) {
    let linux = &mut bundle.config["linux"];
    linux["namespaces"]
        .as_array_mut()
        .expect("namespaces")
        .push(serde_json::json!({"type": "user"}));
    let map = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    linux["uidMappings"] = map.clone();
    linux["gidMappings"] = map;
}
