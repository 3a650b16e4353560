//! A disk that is full, or cannot be written to: a file system of the test's own, in a mount
//! namespace of its own, which goes with the process that holds it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rrun_tests::{Need, require, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A small tmpfs that only programs started by it see.
struct Small {
    dir: tempfile::TempDir,
    holder: Child,
    server: Option<Child>,
}

impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let held = format!(
            "mount -t tmpfs -o size=16m none '{}' && echo mounted && exec sleep 100000",
            root.display()
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &held])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 8];
        let out = holder.stdout.as_mut().unwrap();
        out.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"mounted\n");
        Self {
            dir,
            holder,
            server: None,
        }
    }

    /// A program in the namespace.
    fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.holder.id().to_string();
        command.args(["--mount", "--target", &holder]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// A path on the file system, from outside.
    fn path(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join("root");
        let inside = root.strip_prefix("/").unwrap().join(name);
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    fn serve(&self) -> Command {
        let dir = self.dir.path();
        let path = |name: &str| dir.join(name).display().to_string();
        let (program, socket) = (env!("CARGO_BIN_EXE_rrun-pods"), path("api.sock"));
        let (root, cri) = (path("root"), path("no-cri.sock"));
        let mut command = self.inside(&[program, "--socket", &socket, "serve", "--root", &root]);
        command.args(["--listen", "none", "--service-table", "none"]);
        command.args(["--node-name", "test", "--cri-socket", &cri]);
        command
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let child = self.serve().stderr(log).spawn().unwrap();
        self.server = Some(child);
        wait_until("the API", LIMIT, || {
            UnixStream::connect(self.dir.path().join("api.sock")).is_ok()
        });
    }

    /// kill -9.
    fn kill(&mut self) {
        let mut child = self.server.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_file(self.dir.path().join("api.sock")).unwrap();
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (code, body) = self.text(method, path, body);
        (code, serde_json::from_str(&body).unwrap_or_default())
    }

    fn text(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut io = UnixStream::connect(self.dir.path().join("api.sock")).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        io.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body.to_owned())
    }

    fn create(&self, number: usize) -> (u16, Value) {
        let data = json!({"k": format!("{number} {}", "x".repeat(100_000))});
        let map = json!({"metadata": {"name": format!("m{number}")}, "data": data});
        self.call("POST", MAPS, &map.to_string())
    }

    fn count(&self) -> usize {
        let (code, list) = self.call("GET", MAPS, "");
        assert_eq!(code, 200);
        list["items"].as_array().unwrap().len()
    }

    /// Takes all that is left.
    fn fill(&self) {
        let mut filler = fs::File::create(self.path("filler")).unwrap();
        let full = (0..).find_map(|_| filler.write_all(&[7; 4096]).err());
        assert_eq!(full.unwrap().raw_os_error(), Some(28));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_and_is_left_behind_once_there_is_room() {
    require!(
        Need::Root,
        Need::Program("unshare"),
        Need::Program("nsenter")
    );
    let mut small = Small::new();
    small.start();
    for number in 0..3 {
        assert_eq!(small.create(number).0, 201);
    }
    small.fill();
    // The file has some room of its own; it is used up at some time.
    let mut made = 3;
    let refusal = loop {
        let (code, answer) = small.create(made);
        if code != 201 {
            break (code, answer);
        }
        made += 1;
    };
    let (code, answer) = refusal;
    let why = answer["message"].as_str().unwrap();
    assert_eq!(code, 500, "{answer}");
    assert!(
        why.contains("state.redb: ") && why.contains("No space left"),
        "{why}"
    );
    // It answers, and shows nothing that it has not kept.
    let health = |path: &str| small.text("GET", path, "");
    let lines = "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n";
    assert_eq!(health("/readyz"), (500, lines.to_owned()));
    let (code, why) = health("/readyz/store");
    assert!(code == 500 && why.contains("No space left"), "{why}");
    let lines = "[+]ping ok\nlivez check passed\n";
    assert_eq!(health("/livez?verbose"), (200, lines.to_owned()));
    let listed = small.count();
    assert!(listed >= made, "{listed} of {made}");
    assert_eq!(small.call("GET", &format!("{MAPS}/m{made}"), "").0, 404);
    // What is not kept on disk goes on.
    let event = json!({"metadata": {"name": "e"}, "reason": "r", "involvedObject": {"namespace": "default"}});
    let events = "/api/v1/namespaces/default/events";
    assert_eq!(small.call("POST", events, &event.to_string()).0, 201);

    // Killed while the disk is full, it comes back when there is room, with everything.
    small.kill();
    fs::remove_file(small.path("filler")).unwrap();
    small.start();
    assert_eq!(small.count(), listed, "after kill -9");
    assert_eq!(small.create(made).0, 201);

    // The same without a new start.
    small.fill();
    let mut next = made + 1;
    while small.create(next).0 == 201 {
        next += 1;
    }
    assert_eq!(small.call("GET", "/readyz", "").0, 500);
    fs::remove_file(small.path("filler")).unwrap();
    // Without a write in between.
    let ready = small.text("GET", "/readyz?verbose", "");
    let lines = "[+]ping ok\n[+]store ok\nreadyz check passed\n";
    assert_eq!(ready, (200, lines.to_owned()));
    assert_eq!(small.create(next).0, 201, "with room again");
    let listed = small.count();
    small.kill();
    small.start();
    assert_eq!(small.count(), listed);
}

#[test]
fn a_disk_that_turns_read_only_makes_the_server_unready_before_any_write() {
    require!(
        Need::Root,
        Need::Program("unshare"),
        Need::Program("nsenter")
    );
    let mut small = Small::new();
    small.start();
    assert_eq!(small.create(0).0, 201);
    let root = small.dir.path().join("root").display().to_string();
    // As an error of a disk has it: who has files open keeps them.
    let remount = |options: &str| {
        let words = ["mount", "-o", options, "--bind", &root, &root];
        assert!(small.inside(&words).status().unwrap().success());
    };
    remount("ro");
    let (code, why) = small.text("GET", "/readyz/store", "");
    assert!(code == 500 && why.contains("read-only"), "{code} {why}");
    assert_eq!(small.call("GET", "/livez", "").0, 200);
    let done = small.inside(&["umount", &root]).status();
    assert!(done.unwrap().success());
    assert_eq!(small.call("GET", "/readyz", "").0, 200);
}

#[test]
fn a_disk_that_cannot_be_written_to_is_named_at_the_start() {
    require!(
        Need::Root,
        Need::Program("unshare"),
        Need::Program("nsenter")
    );
    let small = Small::new();
    let root = small.dir.path().join("root").display().to_string();
    let done = small.inside(&["mount", "-o", "remount,ro", &root]).status();
    assert!(done.unwrap().success());
    let output = small.serve().output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&root) && said.contains("Read-only file system"),
        "{said}"
    );
}
