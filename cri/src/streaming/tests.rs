//! The server over loopback TCP, with our own client and a process made of two sockets.

use std::sync::Arc;

use anyhow::{Result, bail};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rrun_cri_api::v1;
use rrun_streaming::client::{self, Target};
use rrun_streaming::{Error, Limits, StreamOptions, TerminalSize};
use rrun_task_api::stdio::{HEADER, Stream, header, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::{Backend, Control, Session, Streaming};

/// Says what its input was when that ends, on both outputs, and exits with 3.
struct Fake {
    events: mpsc::UnboundedSender<String>,
}

impl Backend for Fake {
    fn exec(&self, request: v1::ExecRequest) -> BoxFuture<'_, Result<Session>> {
        async move {
            if request.container_id != "there" {
                bail!("no such container: {}", request.container_id);
            }
            let (stdio, process) = UnixStream::pair()?;
            tokio::spawn(run(process));
            let control = Box::new(FakeControl(self.events.clone()));
            Ok(Session {
                stdio,
                control,
                close_stdin: true,
            })
        }
        .boxed()
    }

    fn attach(&self, request: v1::AttachRequest) -> BoxFuture<'_, Result<Session>> {
        self.exec(v1::ExecRequest {
            container_id: request.container_id,
            ..Default::default()
        })
    }

    fn dial(&self, pod: String, port: u16) -> BoxFuture<'_, Result<TcpStream>> {
        async move {
            if port == 1 {
                bail!("nothing listens in {pod}");
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).await?)
        }
        .boxed()
    }
}

async fn run(mut process: UnixStream) -> Result<()> {
    let mut input = Vec::new();
    loop {
        let mut head = [0; HEADER];
        process.read_exact(&mut head).await?;
        let (stream, length) = parse(head)?;
        assert_eq!(stream, Stream::Stdin);
        let mut data = vec![0; length];
        process.read_exact(&mut data).await?;
        if length == 0 {
            break;
        }
        input.extend_from_slice(&data);
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        process.write_all(&header(stream, input.len())).await?;
        process.write_all(&input).await?;
    }
    process.write_all(&header(Stream::End, 0)).await?;
    // The other side closes.
    process.read_to_end(&mut input).await?;
    Ok(())
}

struct FakeControl(mpsc::UnboundedSender<String>);

impl Control for FakeControl {
    fn resize(&self, width: u16, height: u16) -> BoxFuture<'_, Result<()>> {
        self.0.send(format!("{width}x{height}")).unwrap();
        async { Ok(()) }.boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Result<i32>> {
        async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            // The end of the output comes first here.
            Ok(3)
        }
        .boxed()
    }

    fn abandon(&self) {
        self.0.send("abandoned".to_owned()).unwrap();
    }
}

async fn serve() -> (Streaming, mpsc::UnboundedReceiver<String>) {
    let (events, heard) = mpsc::unbounded_channel();
    let address = "127.0.0.1:0".parse().unwrap();
    (
        Streaming::serve(address, Arc::new(Fake { events }))
            .await
            .unwrap(),
        heard,
    )
}

fn request(container: &str) -> v1::ExecRequest {
    v1::ExecRequest {
        container_id: container.into(),
        cmd: vec!["cat".into()],
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

const ALL: StreamOptions = StreamOptions {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

async fn connect(url: &str) -> (TcpStream, Target) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let target = Target {
        host: host.into(),
        path: format!("/{path}"),
        ..Target::default()
    };
    (TcpStream::connect(host).await.unwrap(), target)
}

async fn command(url: &str, options: StreamOptions) -> Result<client::RemoteCommand, Error> {
    let (io, target) = connect(url).await;
    client::remote_command(io, &target, options, &Limits::default()).await
}

#[tokio::test]
async fn an_exec_gives_its_output_and_its_exit_code() {
    let (server, _heard) = serve().await;
    let url = server.exec_url(request("there")).unwrap();
    let mut session = command(&url, ALL).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let text = "z".repeat(300_000);
    stdin.write_all(text.as_bytes()).await.unwrap();
    stdin.shutdown().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (
        session.stdout.take().unwrap(),
        session.stderr.take().unwrap(),
    );
    let (one, two) = tokio::join!(
        stdout.read_to_string(&mut out),
        stderr.read_to_string(&mut err)
    );
    one.and(two).unwrap();
    assert!(out == text && err == text);
    assert_eq!(session.status().await.unwrap().exit_code(), Some(3));
}

#[tokio::test]
async fn a_url_can_be_used_once_and_for_its_kind() {
    let (server, _heard) = serve().await;
    let url = server.exec_url(request("there")).unwrap();
    assert!(command(&url, ALL).await.is_ok());
    let other = server
        .exec_url(request("there"))
        .unwrap()
        .replace("/exec/", "/attach/");
    for url in [url, other] {
        match command(&url, ALL).await {
            Err(Error::Refused { code, .. }) => assert_eq!(code, 404),
            _ => panic!("{url} was not refused"),
        }
    }
}

/// hyper's keep_alive(false) adds a `Connection: close`, and client-go looks at the first line.
#[tokio::test]
async fn the_answer_to_an_upgrade_says_so_to_client_go() {
    let (server, _heard) = serve().await;
    let (mut io, target) = connect(&server.exec_url(request("there")).unwrap()).await;
    let asked = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
        target.path, target.host
    );
    io.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let count = io.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).to_lowercase();
    let connection: Vec<_> = answer
        .lines()
        .filter(|l| l.starts_with("connection:"))
        .collect();
    assert_eq!(connection, ["connection: upgrade"], "{answer}");
}

#[tokio::test]
async fn a_failure_to_start_is_told_on_the_error_channel() {
    let (server, _heard) = serve().await;
    let session = command(&server.exec_url(request("gone")).unwrap(), ALL)
        .await
        .unwrap();
    let status = session.status().await.unwrap();
    assert_eq!(status.exit_code(), None);
    assert_eq!(status.message, "no such container: gone");
}

#[tokio::test]
async fn the_terminal_is_resized_and_a_lost_client_is_noticed() {
    let (server, mut heard) = serve().await;
    let tty = v1::ExecRequest {
        tty: true,
        stderr: false,
        ..request("there")
    };
    let options = StreamOptions {
        stderr: false,
        tty: true,
        ..ALL
    };
    let session = command(&server.exec_url(tty).unwrap(), options)
        .await
        .unwrap();
    session
        .resize
        .send(TerminalSize {
            width: 132,
            height: 43,
        })
        .await
        .unwrap();
    assert_eq!(heard.recv().await.unwrap(), "132x43");
    drop(session);
    assert_eq!(heard.recv().await.unwrap(), "abandoned");
}

#[tokio::test]
async fn an_attach_ends_with_success() {
    let (server, _heard) = serve().await;
    let attach = v1::AttachRequest {
        container_id: "there".into(),
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let options = StreamOptions {
        stderr: false,
        ..ALL
    };
    let mut session = command(&server.attach_url(attach).unwrap(), options)
        .await
        .unwrap();
    drop(session.stdin.take());
    assert!(session.status().await.unwrap().is_success());
}

#[tokio::test]
async fn a_port_is_forwarded() {
    let (server, _heard) = serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"page").await.unwrap();
    });
    let forward = v1::PortForwardRequest {
        pod_sandbox_id: "pod".into(),
        port: Vec::new(),
    };
    let (io, target) = connect(&server.port_forward_url(forward).unwrap()).await;
    let session = client::port_forward(io, &target, &Limits::default())
        .await
        .unwrap();
    let mut page = String::new();
    let mut forwarded = session.connect(port).await.unwrap();
    forwarded.writer.shutdown().await.unwrap();
    forwarded.reader.read_to_string(&mut page).await.unwrap();
    assert_eq!(page, "page");
    let mut refusal = String::new();
    session
        .connect(1)
        .await
        .unwrap()
        .error
        .read_to_string(&mut refusal)
        .await
        .unwrap();
    assert_eq!(refusal, "forward port 1: nothing listens in pod");
}
