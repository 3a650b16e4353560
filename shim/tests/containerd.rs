//! The shim as runtime `io.containerd.rrun.v2` of a containerd that has directories of its own.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{SHIM, kill_by_pid, runs, runtimes};
use rrun_tests::{Need, busybox_rootfs, require, wait_until};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
const IMAGE: &str = "docker.io/library/busybox:test";

/// A containerd, and beside its shim the runtime under test.
struct Containerd {
    dir: TempDir,
    daemon: Child,
}

impl Containerd {
    fn start(runtime: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        rrun_tests::copy_program(Path::new(SHIM), &bin.join("containerd-shim-rrun-v2"));
        symlink(runtime, bin.join("rrun")).unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("sock.ttrpc"),
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let daemon = spawn(dir.path());
        let containerd = Self { dir, daemon };
        containerd.wait_until_up();
        containerd.import();
        containerd
    }

    fn restart(&mut self) {
        self.daemon = spawn(self.dir.path());
        self.wait_until_up();
    }

    /// kill -9, as nothing of ours may need a goodbye.
    fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    fn wait_until_up(&self) {
        wait_until("containerd", LIMIT, || {
            self.ctr(&["version"]).status.success()
        });
    }

    fn ctr(&self, args: &[&str]) -> Output {
        Command::new("ctr")
            .arg("-a")
            .arg(self.dir.path().join("sock"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a command prints; it has to succeed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, flags: &[&str], id: &str, args: &[&str]) -> Output {
        let head = [
            "run",
            "--runtime",
            "io.containerd.rrun.v2",
            "--snapshotter",
            "native",
        ];
        self.ctr(&[&head[..], flags, &[IMAGE, id], args].concat())
    }

    /// Imports an image of one layer, made here.
    fn import(&self) {
        let image = self.dir.path().join("image");
        let rootfs = self.dir.path().join("layer");
        busybox_rootfs(&rootfs);
        fs::create_dir(&image).unwrap();
        let tar = |file: &Path, dir: &Path| {
            let status = Command::new("tar")
                .arg("-cf")
                .arg(file)
                .arg("-C")
                .arg(dir)
                .arg(".")
                .status();
            assert!(status.unwrap().success());
        };
        tar(&image.join("layer.tar"), &rootfs);
        let sum = Command::new("sha256sum")
            .arg(image.join("layer.tar"))
            .output()
            .unwrap()
            .stdout;
        let sum = String::from_utf8(sum).unwrap()[..64].to_owned();
        let config = serde_json::json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
        });
        fs::write(image.join("config.json"), config.to_string()).unwrap();
        let manifest = serde_json::json!([
            {"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]},
        ]);
        fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.dir.path().join("image.tar");
        tar(&archive, &image);
        // By itself, containerd 2 unpacks for its default snapshotter alone.
        let help = text(&self.ctr(&["image", "import", "--help"]).stdout);
        let local: &[&str] = if help.contains("--local") {
            &["--local"]
        } else {
            &[]
        };
        let archive = archive.display().to_string();
        let import = ["image", "import", "--snapshotter", "native"];
        self.ok(&[&import[..], local, &[&archive]].concat());
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.dir
            .path()
            .join("state/io.containerd.runtime.v2.task/default")
            .join(id)
    }

    fn status(&self, id: &str) -> String {
        let tasks = self.ok(&["task", "ls"]);
        let line = tasks
            .lines()
            .find(|line| line.starts_with(&format!("{id} ")));
        line.map(|line| line.split_whitespace().last().unwrap().to_owned())
            .unwrap_or_default()
    }

    fn remove(&self, id: &str) {
        let _ = self.ctr(&["task", "kill", "-s", "KILL", id]);
        wait_until("the task's end", LIMIT, || self.status(id) != "RUNNING");
        let _ = self.ctr(&["task", "rm", id]);
        self.ok(&["container", "rm", id]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let ids = self.ctr(&["container", "ls", "-q"]).stdout;
        for id in String::from_utf8_lossy(&ids).lines() {
            let _ = self.ctr(&["task", "rm", "-f", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn spawn(dir: &Path) -> Child {
    let path = std::env::var("PATH").unwrap();
    Command::new("containerd")
        .arg("-c")
        .arg(dir.join("config.toml"))
        .env("PATH", format!("{}/bin:{path}:/usr/sbin", dir.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn containerd_runs_execs_pauses_measures_and_kills() {
    require!(
        Need::Root,
        Need::Program("containerd"),
        Need::Program("ctr")
    );
    for runtime in runtimes() {
        let containerd = Containerd::start(&runtime);
        let output = containerd.run(
            &["--rm"],
            "one",
            &["sh", "-c", "echo hi; echo no >&2; exit 3"],
        );
        let seen = (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        );
        assert_eq!((seen.0, seen.1.as_str()), (Some(3), "hi\n"), "{}", seen.2);
        assert!(seen.2.contains("no"), "{}", seen.2);
        let output = containerd.run(&["-d"], "two", &["sleep", "1000"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let exec = [
            "task",
            "exec",
            "--exec-id",
            "e",
            "two",
            "sh",
            "-c",
            "echo in; exit 5",
        ];
        let output = containerd.ctr(&exec);
        assert_eq!(
            (output.status.code(), text(&output.stdout).as_str()),
            (Some(5), "in\n")
        );
        assert!(
            containerd
                .ok(&["task", "metrics", "two"])
                .contains("pids.current")
        );
        assert_eq!(containerd.ok(&["task", "ps", "two"]).lines().count(), 2);
        let paused = containerd.ctr(&["task", "pause", "two"]);
        if runtime.ends_with("runc") || paused.status.success() {
            assert!(paused.status.success(), "{}", text(&paused.stderr));
            assert_eq!(containerd.status("two"), "PAUSED");
            containerd.ok(&["task", "resume", "two"]);
        }
        assert_eq!(containerd.status("two"), "RUNNING");
        containerd.remove("two");
        assert!(!containerd.bundle("two").exists());
    }
}

#[test]
fn containers_outlive_containerd_and_their_exits_are_kept_for_it() {
    require!(
        Need::Root,
        Need::Program("containerd"),
        Need::Program("ctr")
    );
    let mut containerd = Containerd::start(&runtimes()[0]);
    for (id, script) in [
        ("stays", "sleep 1000"),
        ("ends", "sleep 1; exit 9"),
        ("shot", "sleep 1000"),
    ] {
        let output = containerd.run(&["-d"], id, &["sh", "-c", script]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let shim = |id: &str| -> u32 {
        fs::read_to_string(containerd.bundle(id).join("shim.pid"))
            .unwrap()
            .parse()
            .unwrap()
    };
    let (stays, shot) = (shim("stays"), shim("shot"));
    let exit = containerd.bundle("ends").join("exit.json");
    containerd.kill();
    wait_until("an exit on disk", LIMIT, || exit.exists());
    kill_by_pid(&shot.to_string(), "KILL");
    containerd.restart();
    assert_eq!(containerd.status("stays"), "RUNNING");
    assert_eq!(containerd.status("ends"), "STOPPED");
    assert_eq!(containerd.status("shot"), "");
    assert!(runs(stays), "the shim was not started anew");
    let exec = ["task", "exec", "--exec-id", "e", "stays", "echo", "still"];
    assert_eq!(text(&containerd.ctr(&exec).stdout), "still\n");
    assert_eq!(
        containerd.ctr(&["task", "rm", "ends"]).status.code(),
        Some(0)
    );
    for id in ["stays", "ends", "shot"] {
        containerd.remove(id);
    }
    wait_until("the shim's end", LIMIT, || !runs(stays));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left = mounts
        .lines()
        .find(|l| l.contains(&containerd.dir.path().display().to_string()));
    assert_eq!(left, None);
}
