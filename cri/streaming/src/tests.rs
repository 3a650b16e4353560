//! Sessions from end to end: our server behind a real HTTP server, on connections in memory.

use std::time::Duration;

use http::{Request, Response, header};
use http_body_util::{Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::client::{self, Target};
use crate::spdy::connection::{Connection, Role, Stream};
use crate::spdy::headers::Headers;
use crate::{Error, Limits, Status, StreamOptions, TerminalSize, server};

const ALL: StreamOptions = StreamOptions {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};
const TTY: StreamOptions = StreamOptions {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: true,
};

fn limits() -> Limits {
    Limits {
        creation: Duration::from_secs(2),
        ..Limits::default()
    }
}

/// A server whose command copies its input to its output, tells the terminal's size on stdout,
/// and exits with 7; whose pods answer on port 80 only.
fn serve(options: StreamOptions) -> DuplexStream {
    let (client, server) = duplex(64 << 10);
    let service = service_fn(move |request| answer(request, options));
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades(),
    );
    client
}

async fn answer(
    mut request: Request<Incoming>,
    options: StreamOptions,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let accepted = if request.uri().path() == "/portforward" {
        server::port_forward(&mut request, &[80, 81], &limits()).map(|upgrade| {
            tokio::spawn(async move { upgrade.session.await.unwrap().serve(dial).await });
            upgrade.response
        })
    } else {
        server::remote_command(&mut request, options, &limits()).map(|upgrade| {
            tokio::spawn(async move { run(upgrade.session.await?).await });
            upgrade.response
        })
    };
    Ok(match accepted {
        Ok(response) => response.map(|()| Full::default()),
        Err(Error::Refused { code, message }) => Response::builder()
            .status(code)
            .body(message.into())
            .unwrap(),
        Err(error) => panic!("{error}"),
    })
}

async fn run(mut session: server::RemoteCommand) -> Result<(), Error> {
    let mut stdout = session.stdout.take().unwrap();
    if let Some(size) = session.resize.recv().await {
        let text = format!("{}x{}\n", size.width, size.height);
        stdout.write_all(text.as_bytes()).await.unwrap();
    }
    if let Some(mut stdin) = session.stdin.take() {
        tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    }
    if let Some(stderr) = &mut session.stderr {
        stderr.write_all(b"done").await.unwrap();
    }
    drop(stdout);
    session.finish(Status::exited(7)).await
}

async fn dial(port: u16) -> Result<DuplexStream, String> {
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

fn target(path: &str) -> Target {
    Target {
        host: "localhost".into(),
        path: path.into(),
        ..Target::default()
    }
}

async fn text_of(mut reader: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_command_over_websocket_v5_ends_with_its_input() {
    let io = serve(ALL);
    let mut session = client::remote_command(io, &target("/exec"), ALL, &limits())
        .await
        .unwrap();
    let (stdout, stderr) = (
        session.stdout.take().unwrap(),
        session.stderr.take().unwrap(),
    );
    let big = "x".repeat(1 << 20);
    let mut stdin = session.stdin.take().unwrap();
    let text = big.clone();
    tokio::spawn(async move { stdin.write_all(text.as_bytes()).await });
    let (out, err, status) = tokio::join!(text_of(stdout), text_of(stderr), session.status());
    assert_eq!((out.len(), err.as_str()), (big.len(), "done"));
    assert_eq!(status.unwrap().exit_code(), Some(7));
}

#[tokio::test]
async fn the_terminals_size_reaches_the_command() {
    let io = serve(TTY);
    let mut session = client::remote_command(io, &target("/exec"), TTY, &limits())
        .await
        .unwrap();
    session
        .resize
        .send(TerminalSize {
            width: 100,
            height: 40,
        })
        .await
        .unwrap();
    session
        .stdin
        .take()
        .unwrap()
        .write_all(b"hello")
        .await
        .unwrap();
    let stdout = session.stdout.take().unwrap();
    let (out, status) = tokio::join!(text_of(stdout), session.status());
    assert_eq!(out, "100x40\nhello");
    assert_eq!(status.unwrap().exit_code(), Some(7));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let (io, server) = duplex(1024);
    let service = service_fn(|_: Request<Incoming>| async {
        let status = r#"{"status":"Failure","message":"pods \"web\" not found","code":404}"#;
        Response::builder()
            .status(404)
            .body(Full::<Bytes>::from(status))
    });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service),
    );
    match client::remote_command(io, &target("/exec"), ALL, &limits()).await {
        Err(Error::Refused { code, message }) => {
            assert_eq!(
                (code.as_u16(), message.as_str()),
                (404, "pods \"web\" not found")
            );
        }
        _ => panic!("not refused"),
    }
}

#[tokio::test]
async fn ports_are_forwarded_in_a_tunnel() {
    let io = serve(ALL);
    let session = client::port_forward(io, &target("/portforward"), &limits())
        .await
        .unwrap();
    for text in ["abc", &"0123456789".repeat(50_000)] {
        let mut forwarded = session.connect(80).await.unwrap();
        let sent = text.to_owned();
        tokio::spawn(async move {
            forwarded.writer.write_all(sent.as_bytes()).await.unwrap();
            forwarded.writer.shutdown().await.unwrap();
        });
        let reversed: String = text.chars().rev().collect();
        assert!(text_of(forwarded.reader).await == reversed);
        assert_eq!(text_of(forwarded.error).await, "");
    }
    let refused = session.connect(81).await.unwrap();
    assert_eq!(text_of(refused.error).await, "nothing listens on 81");
}

/// Upgrades to SPDY as client-go does.
async fn spdy(io: DuplexStream, path: &str, protocol: &str) -> Connection {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", protocol)
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["x-stream-protocol-version"], protocol);
    let io = hyper::upgrade::on(&mut response).await.unwrap();
    Connection::new(TokioIo::new(io), Role::Client, &limits(), |_| false)
}

async fn open(connection: &Connection, kind: &str) -> Stream {
    connection
        .opener
        .open(Headers::new().with("streamType", kind))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_command_over_spdy_ends_with_its_input() {
    let connection = spdy(serve(ALL), "/exec", "v4.channel.k8s.io").await;
    let error = open(&connection, "error").await;
    let mut stdin = open(&connection, "stdin").await;
    let stdout = open(&connection, "stdout").await;
    let stderr = open(&connection, "stderr").await;
    let big = "y".repeat(1 << 20);
    let text = big.clone();
    tokio::spawn(async move {
        stdin.io.write_all(text.as_bytes()).await.unwrap();
        stdin.io.shutdown().await.unwrap();
        stdin.sender.await.unwrap();
    });
    let (out, err, status) =
        tokio::join!(text_of(stdout.io), text_of(stderr.io), text_of(error.io));
    assert_eq!((out.len(), err.as_str()), (big.len(), "done"));
    assert_eq!(
        serde_json::from_str::<Status>(&status).unwrap().exit_code(),
        Some(7)
    );
}

#[tokio::test]
async fn before_v4_the_status_is_text() {
    let connection = spdy(serve(TTY), "/exec", "v3.channel.k8s.io").await;
    let error = open(&connection, "error").await;
    let stdin = open(&connection, "stdin").await;
    let _stdout = open(&connection, "stdout").await;
    let resize = open(&connection, "resize").await;
    drop((stdin, resize));
    let status = text_of(error.io).await;
    assert_eq!(
        status,
        "command terminated with non-zero exit code: exit code 7"
    );
}

#[tokio::test]
async fn a_stream_of_unknown_kind_is_refused() {
    let connection = spdy(serve(ALL), "/exec", "v4.channel.k8s.io").await;
    let strange = Headers::new().with("streamType", "strange");
    assert!(matches!(
        connection.opener.open(strange).await,
        Err(Error::Protocol { .. })
    ));
}

#[tokio::test]
async fn a_client_that_opens_nothing_is_given_up() {
    let connection = spdy(serve(ALL), "/exec", "v4.channel.k8s.io").await;
    let waited = tokio::time::timeout(Duration::from_secs(5), connection.link.gone()).await;
    assert!(waited.is_ok());
}

#[tokio::test]
async fn streams_are_limited() {
    let (ours, theirs) = duplex(64 << 10);
    let few = Limits {
        streams: 2,
        ..limits()
    };
    let mut server = Connection::new(theirs, Role::Server, &few, |_| true);
    let client = Connection::new(ours, Role::Client, &limits(), |_| false);
    let (one, two) = (open(&client, "data").await, open(&client, "data").await);
    assert!(client.opener.open(Headers::new()).await.is_err());
    drop((one, server.accept().await));
    // The first stream has ended on both sides by the time the next is opened.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(client.opener.open(Headers::new()).await.is_ok());
    drop(two);
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let connection = spdy(serve(ALL), "/portforward", "portforward.k8s.io").await;
    let headers = |kind| Headers::new().with("streamType", kind).with("port", "80");
    // Without request ids, as the oldest clients.
    let error = connection.opener.open(headers("error")).await.unwrap();
    let mut data = connection.opener.open(headers("data")).await.unwrap();
    data.io.write_all(b"stressed").await.unwrap();
    data.io.shutdown().await.unwrap();
    assert_eq!(text_of(data.io).await, "desserts");
    assert_eq!(text_of(error.io).await, "");
}

#[tokio::test]
async fn garbage_ends_a_connection_and_nothing_else() {
    for garbage in [
        &b"\x80\x03\x00\x01\x00\xff\xff\xff"[..],
        &[0; 64],
        &[0xff; 64],
    ] {
        let (mut ours, theirs) = duplex(1024);
        let mut server = Connection::new(theirs, Role::Server, &limits(), |_| true);
        ours.write_all(garbage).await.unwrap();
        assert!(server.accept().await.is_none());
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.unwrap();
        // GOAWAY, last stream 0, protocol error.
        assert_eq!(
            answer,
            b"\x80\x03\x00\x07\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01"
        );
    }
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let (_ours, theirs) = duplex(1024);
    let short = Limits {
        idle: Duration::from_millis(50),
        ..limits()
    };
    let mut server = Connection::new(theirs, Role::Server, &short, |_| true);
    let accepted = tokio::time::timeout(Duration::from_secs(2), server.accept()).await;
    assert!(accepted.unwrap().is_none());
}
