//! Server side: decides on an upgrade request and turns the upgraded connection into a session.
//!
//! ```ignore
//! let upgrade = server::remote_command(&mut request, options, &Limits::default())?;
//! tokio::spawn(async move {
//!     let session = upgrade.session.await?;      // after the response has been sent
//!     // copy session.stdin / stdout / stderr, follow session.resize …
//!     session.finish(Status::exited(code)).await
//! });
//! return upgrade.response.map(|()| body)
//! ```

use std::future::Future;
use std::pin::Pin;

use http::{Request, Response};
use tokio::sync::mpsc;

use crate::{Error, Limits, ReadStream, Status, StreamOptions, TerminalSize, WriteStream};

/// An accepted upgrade: the response that the HTTP server must send, and the session that begins
/// once it has been sent.
pub struct Upgrade<S> {
    /// `101 Switching Protocols` with the negotiated protocol; give it any empty body.
    pub response: Response<()>,
    /// Ends when the client has opened its streams, at most [`Limits::creation`] later.
    pub session: Pin<Box<dyn Future<Output = Result<S, Error>> + Send>>,
}

/// A remote command's streams. Dropping it breaks the connection.
pub struct RemoteCommand {
    /// The client's input; ends at the client's half close.
    pub stdin: Option<ReadStream>,
    /// The command's output.
    pub stdout: Option<WriteStream>,
    /// The command's error output.
    pub stderr: Option<WriteStream>,
    /// Sizes of the client's terminal; closed when the client is gone. Without a terminal it is
    /// closed from the start.
    pub resize: mpsc::Receiver<TerminalSize>,
}

impl RemoteCommand {
    /// Ends the session: half-closes the outputs, sends `status` on the error channel and waits
    /// until the client has taken everything and gone, at most a few seconds.
    pub async fn finish(self, status: Status) -> Result<(), Error> {
        let _ = status;
        todo!()
    }
}

/// A port-forward session: the client opens a pair of streams for each connection.
pub struct PortForward {}

/// One forwarded connection.
pub struct Forwarded {
    /// The port inside the pod to connect to.
    pub port: u16,
    /// From the client's connection.
    pub reader: ReadStream,
    /// To the client's connection.
    pub writer: WriteStream,
    /// Takes one line that says why the connection failed; the client reports it.
    pub error: WriteStream,
}

impl PortForward {
    /// The next connection that the client opened; none when the client is gone.
    pub async fn next(&mut self) -> Option<Forwarded> {
        todo!()
    }
}

/// Accepts an exec or attach request: WebSocket or SPDY as the client asks for, with the newest
/// protocol that both know.
///
/// # Errors
/// [`Error::Refused`] with the HTTP status to answer with.
pub fn remote_command<B>(
    request: &mut Request<B>,
    options: StreamOptions,
    limits: &Limits,
) -> Result<Upgrade<RemoteCommand>, Error> {
    let _ = (request, options, limits);
    todo!()
}

/// Accepts a port-forward request. `ports` are those of the request's query, which only the
/// WebSocket protocol with two channels a port needs; SPDY names the port on each stream.
///
/// # Errors
/// [`Error::Refused`] with the HTTP status to answer with.
pub fn port_forward<B>(
    request: &mut Request<B>,
    ports: &[u16],
    limits: &Limits,
) -> Result<Upgrade<PortForward>, Error> {
    let _ = (request, ports, limits);
    todo!()
}
