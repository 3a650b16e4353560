//! Client side: remote commands over WebSocket `v5.channel.k8s.io` (with `v4` accepted), and
//! port-forward over SPDY tunnelled in a WebSocket.
//!
//! The caller connects (TCP, TLS or a unix socket) and gives the connected byte stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, split};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;

use crate::channels::{Channels, ERROR, Framing, RESIZE, STDERR, STDIN, STDOUT};
use crate::link::Link;
use crate::spdy::connection::{Connection, Role};
use crate::spdy::headers::Headers;
use crate::tunnel::tunnel;
use crate::{Error, Limits, ReadStream, Status, StreamOptions, TerminalSize, WriteStream};

/// Longest status or refusal that is read, in bytes.
const LONGEST_STATUS: usize = 64 << 10;
const REMOTE_COMMAND: &str = "v5.channel.k8s.io, v4.channel.k8s.io";
const PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";

/// Where to send the upgrade request on a connection.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The `Host` header, as `localhost` or `127.0.0.1:6443`.
    pub host: String,
    /// Path and query, as `/api/v1/namespaces/default/pods/web/exec?command=ls&stdout=true`.
    pub path: String,
    /// More headers, as `Authorization`.
    pub headers: HeaderMap,
}

/// A remote command's streams at the client. Dropping it breaks the connection.
pub struct RemoteCommand {
    /// To the command; `shutdown` closes its standard input.
    pub stdin: Option<WriteStream>,
    /// From the command.
    pub stdout: Option<ReadStream>,
    /// From the command.
    pub stderr: Option<ReadStream>,
    /// Takes the terminal's size, at the start and at each SIGWINCH.
    pub resize: mpsc::Sender<TerminalSize>,
    error: DuplexStream,
    /// Keeps the WebSocket open after the end of standard input.
    _open: mpsc::Sender<Message>,
    _link: Link,
}

impl RemoteCommand {
    /// Waits for the command's end. The outputs, which must be read meanwhile (take them out
    /// before), have ended when this returns.
    pub async fn status(self) -> Result<Status, Error> {
        let mut text = Vec::new();
        let mut error = self.error.take(LONGEST_STATUS as u64);
        let read = error.read_to_end(&mut text).await;
        read.map_err(|error| Error::io("the command's status", error))?;
        if text.is_empty() {
            let source = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::io(
                "the connection ended before the command's status",
                source,
            ));
        }
        serde_json::from_slice(&text).map_err(|error| Error::Protocol {
            protocol: "channel.k8s.io",
            message: format!("the status is no metav1.Status: {error}"),
        })
    }
}

/// Asks for an exec or attach over `io`. A server's refusal (as 404 with a `metav1.Status`) is
/// [`Error::Refused`] with its code and message.
pub async fn remote_command<IO>(
    io: IO,
    target: &Target,
    options: StreamOptions,
    limits: &Limits,
) -> Result<RemoteCommand, Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, protocol) = upgrade(io, target, REMOTE_COMMAND).await?;
    let framing = Framing {
        base64: false,
        close: protocol == "v5.channel.k8s.io",
    };
    let mut channels = Channels::new(framing, WebSocketRole::Client, limits);
    let stdin = options.stdin.then(|| channels.to_peer(STDIN).0);
    let stdout = options.stdout.then(|| channels.from_peer(STDOUT));
    let stderr = options.stderr.then(|| channels.from_peer(STDERR));
    let error = channels.from_peer(ERROR);
    let sizes = options.tty.then(|| channels.to_peer(RESIZE).0);
    let open = channels.keep_open();
    let link = channels.run(io, limits).await;
    Ok(RemoteCommand {
        stdin: stdin.map(|io| Box::new(io) as WriteStream),
        stdout: stdout.map(|io| Box::new(io) as ReadStream),
        stderr: stderr.map(|io| Box::new(io) as ReadStream),
        resize: send_sizes(sizes),
        error,
        _open: open,
        _link: link,
    })
}

fn send_sizes(io: Option<DuplexStream>) -> mpsc::Sender<TerminalSize> {
    let (sender, mut receiver) = mpsc::channel::<TerminalSize>(4);
    tokio::spawn(async move {
        let Some(mut io) = io else { return };
        while let Some(size) = receiver.recv().await {
            let text = serde_json::to_vec(&size).expect("two numbers are JSON");
            if io.write_all(&text).await.is_err() {
                return;
            }
        }
    });
    sender
}

/// A port-forward session at the client. Dropping it closes all its connections.
pub struct PortForward {
    connection: Connection,
    requests: Arc<AtomicU32>,
    _tunnel: Link,
}

/// One forwarded connection at the client.
pub struct Forwarded {
    /// From the pod.
    pub reader: ReadStream,
    /// To the pod.
    pub writer: WriteStream,
    /// What the server says went wrong: text until the end of the stream, empty for nothing.
    pub error: ReadStream,
}

impl PortForward {
    /// Opens one more connection to `port` inside the pod.
    pub async fn connect(&self, port: u16) -> Result<Forwarded, Error> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed).to_string();
        let headers = |kind| {
            Headers::new()
                .with("streamType", kind)
                .with("port", &port.to_string())
                .with("requestID", &request)
        };
        let mut error = self.connection.opener.open(headers("error")).await?;
        // Nothing is ever written to it.
        error
            .io
            .shutdown()
            .await
            .map_err(|error| Error::io("half-close a stream", error))?;
        let data = self.connection.opener.open(headers("data")).await?;
        let (reader, writer) = split(data.io);
        Ok(Forwarded {
            reader: Box::new(reader),
            writer: Box::new(writer),
            error: Box::new(error.io),
        })
    }

    /// Ends when the server is gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.connection.link.gone()
    }
}

/// Asks for a port-forward over `io`.
pub async fn port_forward<IO>(
    io: IO,
    target: &Target,
    limits: &Limits,
) -> Result<PortForward, Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, _) = upgrade(io, target, PORT_FORWARD).await?;
    let (io, link) = tunnel(io, WebSocketRole::Client, limits).await;
    let connection = Connection::new(io, Role::Client, limits, |_| false);
    Ok(PortForward {
        connection,
        requests: Arc::default(),
        _tunnel: link,
    })
}

/// Upgrades to a WebSocket, and gives the protocol that the server chose of `protocols`.
async fn upgrade<IO>(
    io: IO,
    target: &Target,
    protocols: &str,
) -> Result<(TokioIo<Upgraded>, String), Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error| Error::io("ask for the upgrade", std::io::Error::other(error));
    let key = generate_key();
    let request = upgrade_request(target, protocols, &key)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(broken)?;
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(request).await.map_err(broken)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    let header = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let protocol = header(header::SEC_WEBSOCKET_PROTOCOL)
        .unwrap_or_default()
        .to_owned();
    let accepted = header(header::SEC_WEBSOCKET_ACCEPT) == Some(&derive_accept_key(key.as_bytes()));
    if !accepted || !protocols.split(", ").any(|asked| asked == protocol) {
        return Err(Error::Protocol {
            protocol: "WebSocket",
            message: format!("the server's answer is not to our request (protocol {protocol:?})"),
        });
    }
    let upgraded = hyper::upgrade::on(&mut answer).await.map_err(broken)?;
    Ok((TokioIo::new(upgraded), protocol))
}

fn upgrade_request(
    target: &Target,
    protocols: &str,
    key: &str,
) -> Result<Request<Empty<Bytes>>, Error> {
    let mut request = Request::builder()
        .uri(&target.path)
        .header(header::HOST, &target.host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocols)
        .body(Empty::new())
        .map_err(|error| {
            let message = format!("address {}{}: {error}", target.host, target.path);
            Error::refused(StatusCode::BAD_REQUEST, message)
        })?;
    for (name, value) in &target.headers {
        request
            .headers_mut()
            .append(name, HeaderValue::clone(value));
    }
    Ok(request)
}

/// The server's own words: the message of its `metav1.Status`, or the text of its answer.
async fn refusal(answer: http::Response<Incoming>) -> Error {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_STATUS)
        .collect()
        .await;
    let bytes = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let status = serde_json::from_slice::<Status>(&bytes).ok();
    let text = status
        .map(|status| status.message)
        .filter(|message| !message.is_empty());
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned());
    match text.as_str() {
        "" => Error::refused(code, format!("the server answered {code}")),
        text => Error::refused(code, text),
    }
}
