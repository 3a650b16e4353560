//! Client side: remote commands over WebSocket `v5.channel.k8s.io` (with `v4` accepted), and
//! port-forward over SPDY tunnelled in a WebSocket.
//!
//! The caller connects (TCP, TLS or a unix socket) and gives the connected byte stream.

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::{Error, Limits, ReadStream, Status, StreamOptions, TerminalSize, WriteStream};

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
}

impl RemoteCommand {
    /// Waits for the command's end. The outputs, which must be read meanwhile (take them out
    /// before), have ended when this returns.
    pub async fn status(self) -> Result<Status, Error> {
        todo!()
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
    let _ = (io, target, options, limits);
    todo!()
}

/// A port-forward session at the client.
pub struct PortForward {}

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
        let _ = port;
        todo!()
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
    let _ = (io, target, limits);
    todo!()
}
