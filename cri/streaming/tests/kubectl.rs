//! kubectl's exec, attach and port-forward against our server, over WebSocket and over SPDY:
//! client-go and spdystream are the peers that count.
//!
//! The API server is made of what kubectl looks at: discovery, one pod, and the sub-resources.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rrun_streaming::server::{self, RemoteCommand};
use rrun_streaming::{Error, Limits, Status, StreamOptions};
use rrun_tests::{Need, require};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_mins(1);
const PODS: &str = "/api/v1/namespaces/default/pods/web";

async fn api_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades(),
            );
        }
    });
    format!("http://{address}")
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let json = |text: &'static str| {
        let json = Response::builder().header("content-type", "application/json");
        json.body(Full::from(text)).unwrap()
    };
    Ok(match path.strip_prefix(PODS) {
        Some("") => json(
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"default"},
                "spec":{"containers":[{"name":"main","stdin":true,"tty":false}]},
                "status":{"phase":"Running"}}"#,
        ),
        Some("/portforward") => finish(
            server::port_forward(&mut request, &[], &Limits::default()),
            |session| async {
                session.serve(reverse).await;
            },
        ),
        Some(_) => {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let has = |name: &str| query.split('&').any(|pair| pair == format!("{name}=true"));
            let options = StreamOptions {
                stdin: has("stdin"),
                stdout: has("stdout"),
                stderr: has("stderr"),
                tty: has("tty"),
            };
            let code = if query.contains("command=fail") {
                42
            } else {
                0
            };
            finish(
                server::remote_command(&mut request, options, &Limits::default()),
                move |session| copy(session, code),
            )
        }
        None => match path.as_str() {
            "/api" => json(r#"{"kind":"APIVersions","versions":["v1"]}"#),
            "/apis" => json(r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#),
            "/api/v1" => json(
                r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods",
                    "singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get"],
                    "shortNames":["po"]}]}"#,
            ),
            _ => status(StatusCode::NOT_FOUND, "not found"),
        },
    })
}

fn status(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(code)
        .body(Full::from(text.to_owned()))
        .unwrap()
}

fn finish<S: Send + 'static, F: Future<Output = ()> + Send + 'static>(
    accepted: Result<server::Upgrade<S>, Error>,
    run: impl FnOnce(S) -> F + Send + 'static,
) -> Response<Full<Bytes>> {
    match accepted {
        Ok(upgrade) => {
            tokio::spawn(async move { run(upgrade.session.await.unwrap()).await });
            upgrade.response.map(|()| Full::default())
        }
        Err(Error::Refused { code, message }) => status(code, &message),
        Err(error) => panic!("{error}"),
    }
}

/// Copies the input to the output, says `done` on the error output, and ends with `code`.
async fn copy(mut session: RemoteCommand, code: i32) {
    let mut stdout = session.stdout.take().unwrap();
    if let Some(mut stdin) = session.stdin.take() {
        tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    }
    if let Some(stderr) = &mut session.stderr {
        stderr.write_all(b"done\n").await.unwrap();
    }
    drop(stdout);
    session.finish(Status::exited(code)).await.unwrap();
}

async fn reverse(port: u16) -> Result<DuplexStream, String> {
    if port != 80 {
        return Err(format!("nothing listens on {port}"));
    }
    let (ours, mut theirs) = duplex(1024);
    tokio::spawn(async move {
        let mut text = Vec::new();
        theirs.read_to_end(&mut text).await.unwrap();
        text.reverse();
        theirs.write_all(&text).await.unwrap();
    });
    Ok(ours)
}

struct Kubectl {
    server: String,
    home: tempfile::TempDir,
    websockets: bool,
}

impl Kubectl {
    async fn new(websockets: bool) -> Self {
        Self {
            server: api_server().await,
            home: tempfile::tempdir().unwrap(),
            websockets,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(["--server", &self.server])
            .args(args)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", "/dev/null")
            .env(
                "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
                self.websockets.to_string(),
            )
            .env(
                "KUBECTL_PORT_FORWARD_WEBSOCKETS",
                self.websockets.to_string(),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str], input: &'static [u8]) -> Output {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let child = self.command(args).stdin(reader).spawn().unwrap();
        std::thread::spawn(move || writer.write_all(input));
        timeout(WAIT, child.wait_with_output())
            .await
            .expect("kubectl ends")
            .unwrap()
    }
}

async fn exec_copies_input_and_gives_the_exit_code(websockets: bool) {
    let kubectl = Kubectl::new(websockets).await;
    let big: &'static [u8] = vec![b'x'; 3 << 20].leak();
    let output = kubectl.run(&["exec", "-i", "web", "--", "cat"], big).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        output.stdout == big,
        "{} bytes of {}",
        output.stdout.len(),
        big.len()
    );
    assert_eq!(said, "done\n");
    let failed = kubectl.run(&["exec", "web", "--", "fail"], b"").await;
    assert_eq!(failed.status.code(), Some(42));
}

#[tokio::test]
async fn exec_over_websocket() {
    require!(Need::Program("kubectl"));
    exec_copies_input_and_gives_the_exit_code(true).await;
}

#[tokio::test]
async fn exec_over_spdy() {
    require!(Need::Program("kubectl"));
    exec_copies_input_and_gives_the_exit_code(false).await;
}

#[tokio::test]
async fn attach_over_both() {
    require!(Need::Program("kubectl"));
    for websockets in [true, false] {
        let kubectl = Kubectl::new(websockets).await;
        let output = kubectl
            .run(&["attach", "-q", "-i", "web"], b"hello\n")
            .await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(output.stdout, b"hello\n");
    }
}

async fn ports_are_forwarded(websockets: bool) {
    let kubectl = Kubectl::new(websockets).await;
    let mut command = kubectl.command(&["port-forward", "web", ":80", ":81"]);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ports = Vec::new();
    while ports.len() < 2 {
        let line = timeout(WAIT, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .expect("a line");
        // Forwarding from 127.0.0.1:PORT -> 80
        let port = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|l| l.split_once(' '));
        ports.extend(port.map(|(port, _)| port.parse::<u16>().unwrap()));
    }
    let text = "0123456789".repeat(30_000);
    let reversed: String = text.chars().rev().collect();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", ports[0])).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let send = async {
            writer.write_all(text.as_bytes()).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut answer = String::new();
        let both = async { tokio::join!(send, reader.read_to_string(&mut answer)) };
        timeout(WAIT, both)
            .await
            .expect("the port answers")
            .1
            .unwrap();
        assert!(answer == reversed, "{} bytes", answer.len());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", ports[1])).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let error = timeout(WAIT, errors.next_line())
        .await
        .unwrap()
        .unwrap()
        .expect("an error");
    assert!(error.contains("nothing listens on 81"), "{error}");
    child.kill().await.unwrap();
}

#[tokio::test]
async fn port_forward_over_websocket() {
    require!(Need::Program("kubectl"));
    ports_are_forwarded(true).await;
}

#[tokio::test]
async fn port_forward_over_spdy() {
    require!(Need::Program("kubectl"));
    ports_are_forwarded(false).await;
}
