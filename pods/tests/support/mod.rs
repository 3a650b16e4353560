//! A pod manager of a test's own: in a directory of its own, without a runtime and without a proxy.

#![allow(clippy::unwrap_used, dead_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rrun_tests::Port;
use serde_json::Value;

pub struct Server {
    dir: tempfile::TempDir,
    child: Child,
    port: Option<Port>,
}

fn start(dir: &Path, port: Option<&Port>) -> Child {
    let listen = port.map_or("none".to_owned(), |p| format!("127.0.0.1:{}", p.number()));
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_rrun-pods"))
        .arg("--socket")
        .arg(dir.join("api.sock"))
        .args([
            "serve",
            "--listen",
            &listen,
            "--service-table",
            "none",
            "--node-name",
            "test",
        ])
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--cri-socket")
        .arg(dir.join("no-cri.sock"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Server {
    pub fn new() -> Self {
        Self::launch(None)
    }

    /// With the TLS listener on a free port.
    pub fn with_tls() -> Self {
        Self::launch(Some(Port::take()))
    }

    fn launch(port: Option<Port>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = start(dir.path(), port.as_ref());
        let server = Self { dir, child, port };
        server.ready();
        server
    }

    fn ready(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        let config = self.port.as_ref().map(|_| self.kubeconfig());
        while UnixStream::connect(self.socket()).is_err()
            || config.as_ref().is_some_and(|c| !c.exists())
        {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(
                Instant::now() < end,
                "the server does not come up: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("root/kubeconfig")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// kill -9, and a new start on the same state.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.socket()).unwrap();
        self.child = start(self.dir.path(), self.port.as_ref());
        self.ready();
    }

    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (code, _, body) = self.exchange(method, path, headers, body);
        (code, body)
    }

    /// The code and the headers of an answer.
    pub fn head(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (code, head, _) = self.exchange(method, path, headers, body);
        (code, head)
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String, String) {
        let mut io = UnixStream::connect(self.socket()).unwrap();
        let length = body.len();
        // In one piece: who is refused is answered, and cut off, before all pieces are read.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        io.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_owned(), body.to_owned())
    }

    /// JSON in, JSON out.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.send(method, path, "application/json", body)
    }

    pub fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> (u16, Value) {
        let text = body.map(Value::to_string).unwrap_or_default();
        let (code, text) = self.request(method, path, &format!("content-type: {kind}\r\n"), &text);
        (
            code,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    pub fn get(&self, path: &str) -> Value {
        let (code, value) = self.call("GET", path, None);
        assert_eq!(code, 200, "{path}: {value}");
        value
    }

    pub fn create(&self, path: &str, body: &Value) -> Value {
        let (code, value) = self.call("POST", path, Some(body));
        assert_eq!(code, 201, "{path}: {value}");
        value
    }

    /// Waits until a path answers with a code.
    pub fn until(&self, path: &str, code: u16) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let (got, value) = self.call("GET", path, None);
            if got == code {
                return;
            }
            assert!(Instant::now() < end, "{path}: {got}, not {code}: {value}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
