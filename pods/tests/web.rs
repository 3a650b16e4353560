//! The page of `rrun-pods web`: its server from outside, and the page in a real browser.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rrun_tests::{Need, find_program, require};
use serde_json::json;
use support::Server;

struct Web {
    child: Child,
    address: String,
    token: String,
}

impl Web {
    fn start(server: &Server) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rrun-pods"))
            .arg("--socket")
            .arg(server.socket())
            .arg("web")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("http://").unwrap();
        let (address, token) = url.split_once("/?token=").unwrap();
        let (address, token) = (address.to_owned(), token.to_owned());
        Self {
            child,
            address,
            token,
        }
    }

    /// The answer to a request with these fields.
    fn ask(&self, line: &str, host: &str, more: &str) -> String {
        let mut io = TcpStream::connect(&self.address).unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
        io.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = io.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn code(&self, line: &str, host: &str, more: &str) -> u16 {
        let answer = self.ask(line, host, more);
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_is_for_who_has_its_token_and_reads_alone() {
    let server = Server::new();
    let web = Web::start(&server);
    let own = web.address.as_str();
    let cookie = format!("cookie: rrun-pods-web={}\r\n", web.token);
    assert_eq!(web.code("GET /", own, ""), 403);
    assert_eq!(
        web.code("GET /api/v1/pods", own, "cookie: rrun-pods-web=0\r\n"),
        403
    );
    assert_eq!(
        web.code("GET /", "evil.example", &cookie),
        421,
        "DNS that was turned round"
    );
    assert_eq!(web.code("POST /api/v1/pods", own, &cookie), 405);
    let entrance = web.ask(&format!("GET /?token={}", web.token), own, "");
    assert!(entrance.starts_with("HTTP/1.1 303") && entrance.contains("HttpOnly; SameSite=Strict"));
    let page = web.ask("GET /", own, &cookie);
    assert!(
        page.contains("default-src 'none'; script-src 'self'")
            && page.contains("<table id=\"pods\">")
    );
    assert_eq!(web.code("GET /api/v1/pods", own, &cookie), 200);
    for path in [
        "/api/v1/secrets",
        "/backup",
        "/api/v1/namespaces/default/pods/../../../../secrets",
    ] {
        assert_eq!(
            web.code(&format!("GET {path}"), own, &cookie),
            404,
            "{path}"
        );
    }
}

#[test]
fn what_is_hostile_is_text_in_a_real_browser() {
    require!(Need::Program("chromium"));
    let server = Server::new();
    let image = "<img src=x onerror=\"document.title='owned'\">";
    server.create(
        "/api/v1/namespaces/default/events",
        &json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": image, "namespace": "default"},
            "reason": "Bad", "message": image, "type": "Warning", "lastTimestamp": "2026-01-01T00:00:00Z"}),
    );
    let pod = json!({"metadata": {"name": "shown-pod"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.create("/api/v1/namespaces/default/pods", &pod);
    let web = Web::start(&server);
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(find_program("chromium").unwrap())
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--dump-dom",
        ])
        .arg("--virtual-time-budget=8000")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/?token={}", web.address, web.token))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(dom.contains("default/shown-pod"), "{dom}\n{said}");
    assert!(dom.contains("&lt;img src=x onerror"), "{dom}");
    assert!(
        !dom.contains("<img") && dom.contains("<title>rrun-pods</title>"),
        "{dom}"
    );
}
