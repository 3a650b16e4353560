//! Exec and attach at the server.

use std::collections::BTreeSet;

use http::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Deserializer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;

use super::negotiate::{Carrier, Offer, agree};
use super::{Upgrade, upgraded};
use crate::channels::{Channels, ERROR, Framing, RESIZE, STDERR, STDIN, STDOUT};
use crate::link::{Link, drain};
use crate::spdy::SPDY_3_1;
use crate::spdy::connection::{Connection, Role, Stream};
use crate::spdy::headers::Headers;
use crate::{Error, Limits, ReadStream, Status, StreamOptions, TerminalSize, WriteStream};

const OFFER: Offer = Offer {
    spdy: &[
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ],
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
};
/// Longest JSON object on the resize channel, in bytes.
const LONGEST_SIZE: usize = 4 << 10;

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
    error: DuplexStream,
    /// Tasks that send what is written; the one of the error channel apart.
    senders: Vec<JoinHandle<()>>,
    error_sender: JoinHandle<()>,
    /// Whether the status goes over the error channel as JSON (v4 and later) or as text.
    json: bool,
    under: Under,
}

enum Under {
    WebSocket(Link),
    Spdy(Connection),
}

impl Under {
    fn link(&self) -> &Link {
        match self {
            Self::WebSocket(link) => link,
            Self::Spdy(connection) => &connection.link,
        }
    }
}

impl RemoteCommand {
    /// Ends when the client is gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        self.under.link().gone()
    }

    /// Ends the session: half-closes the outputs, sends `status` on the error channel and waits
    /// until the client has taken everything and gone, at most a few seconds.
    pub async fn finish(self, status: Status) -> Result<(), Error> {
        let Self {
            stdin,
            stdout,
            stderr,
            resize,
            mut error,
            ..
        } = self;
        drop((stdin, stdout, stderr, resize));
        drain(self.senders).await;
        let text = if self.json {
            serde_json::to_vec(&status).expect("a status has only string keys")
        } else if status.is_success() {
            Vec::new()
        } else {
            status.message.into_bytes()
        };
        let sent = error.write_all(&text).await;
        drop(error);
        drain(vec![self.error_sender]).await;
        match self.under {
            // The last sender's end closes the WebSocket.
            Under::WebSocket(link) => link.part().await,
            Under::Spdy(connection) => connection.close().await,
        }
        sent.map_err(|error| Error::io("send the status", error))
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
    let agreed = agree(request, &OFFER)?;
    let (carrier, protocol, limits) = (agreed.carrier, agreed.protocol, *limits);
    let on = hyper::upgrade::on(request);
    let session = Box::pin(async move {
        let io = upgraded(on).await?;
        match carrier {
            Carrier::WebSocket => Ok(websocket(io, protocol, options, &limits).await),
            Carrier::Spdy => spdy(io, protocol, options, &limits).await,
        }
    });
    Ok(Upgrade {
        response: agreed.response,
        session,
    })
}

async fn websocket(
    io: TokioIo<Upgraded>,
    protocol: &str,
    options: StreamOptions,
    limits: &Limits,
) -> RemoteCommand {
    let framing = Framing {
        base64: protocol.contains("base64"),
        close: protocol.starts_with("v5."),
    };
    let mut channels = Channels::new(framing, WebSocketRole::Server, limits);
    let stdin = options.stdin.then(|| channels.from_peer(STDIN));
    let stdout = options.stdout.then(|| channels.to_peer(STDOUT));
    let stderr = options.stderr.then(|| channels.to_peer(STDERR));
    let (error, error_sender) = channels.to_peer(ERROR);
    let sizes = options.tty.then(|| channels.from_peer(RESIZE));
    // Clients wait for an empty message on the first channel, as the kubelet sends it.
    channels.greet(if options.stdout { STDOUT } else { ERROR }, &[]);
    let link = channels.run(io, limits).await;
    let mut senders = Vec::new();
    let mut outgoing = |channel: Option<(DuplexStream, JoinHandle<()>)>| {
        channel.map(|(io, sender)| {
            senders.push(sender);
            Box::new(io) as WriteStream
        })
    };
    RemoteCommand {
        stdin: stdin.map(|io| Box::new(io) as ReadStream),
        stdout: outgoing(stdout),
        stderr: outgoing(stderr),
        resize: sizes_of(sizes),
        error,
        senders,
        error_sender,
        json: protocol.starts_with('v'),
        under: Under::WebSocket(link),
    }
}

async fn spdy(
    io: TokioIo<Upgraded>,
    protocol: &str,
    options: StreamOptions,
    limits: &Limits,
) -> Result<RemoteCommand, Error> {
    let mut connection = Connection::new(io, Role::Server, limits, is_known);
    // Sizes came with v3, the status as JSON with v4.
    let resizes = options.tty && ["v3.channel.k8s.io", "v4.channel.k8s.io"].contains(&protocol);
    let wanted = [
        ("error", true),
        ("stdin", options.stdin),
        ("stdout", options.stdout),
        ("stderr", options.stderr),
        ("resize", resizes),
    ];
    let wanted = wanted
        .into_iter()
        .filter_map(|(kind, wanted)| wanted.then_some(kind));
    let mut streams = Streams::await_all(&mut connection, wanted.collect(), limits).await?;
    let error = streams.take("error").ok_or_else(lost)?;
    let stdin = streams.take("stdin");
    let stdout = streams.take("stdout");
    let stderr = streams.take("stderr");
    let sizes = streams.take("resize");
    let mut senders = Vec::new();
    let mut io_of = |stream: Option<Stream>| {
        stream.map(|stream| {
            senders.push(stream.sender);
            stream.io
        })
    };
    Ok(RemoteCommand {
        stdin: io_of(stdin).map(|io| Box::new(io) as ReadStream),
        stdout: io_of(stdout).map(|io| Box::new(io) as WriteStream),
        stderr: io_of(stderr).map(|io| Box::new(io) as WriteStream),
        resize: sizes_of(sizes.map(|stream| stream.io)),
        error: error.io,
        senders,
        error_sender: error.sender,
        json: protocol == OFFER.spdy[0],
        under: Under::Spdy(connection),
    })
}

fn is_known(headers: &Headers) -> bool {
    let kinds = ["error", "stdin", "stdout", "stderr", "resize"];
    headers
        .get("streamType")
        .is_some_and(|kind| kinds.contains(&kind))
}

fn lost() -> Error {
    Error::io(
        "wait for the client's streams",
        std::io::ErrorKind::UnexpectedEof.into(),
    )
}

/// The streams that a client opened.
struct Streams(Vec<Stream>);

impl Streams {
    /// Waits for one stream of each kind. Others are left open, but nobody reads them.
    async fn await_all(
        connection: &mut Connection,
        mut wanted: BTreeSet<&'static str>,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let gather = async {
            let mut streams = Vec::new();
            while !wanted.is_empty() {
                let stream = connection.accept().await.ok_or_else(lost)?;
                let kind = stream.headers.get("streamType").unwrap_or_default();
                if wanted.remove(kind) {
                    streams.push(stream);
                } else {
                    return Err(Error::Protocol {
                        protocol: SPDY_3_1,
                        message: format!("a stream {kind:?} that is not of this session"),
                    });
                }
            }
            Ok(Self(streams))
        };
        let limit = limits.creation;
        let gathered = timeout(limit, gather).await;
        gathered.unwrap_or(Err(Error::Timeout {
            what: "opening the streams",
            limit,
        }))
    }

    fn take(&mut self, kind: &str) -> Option<Stream> {
        let of_kind = |stream: &Stream| stream.headers.get("streamType") == Some(kind);
        let index = self.0.iter().position(of_kind)?;
        Some(self.0.swap_remove(index))
    }
}

/// Reads terminal sizes: JSON objects one after the other.
fn sizes_of(io: Option<DuplexStream>) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(4);
    if let Some(io) = io {
        tokio::spawn(read_sizes(io, sender));
    }
    receiver
}

async fn read_sizes(mut io: DuplexStream, sender: mpsc::Sender<TerminalSize>) {
    let mut buffer = Vec::new();
    // What is no size ends the channel; the session goes on without.
    while let Ok(count) = io.read_buf(&mut buffer).await {
        if count == 0 || buffer.len() > LONGEST_SIZE {
            return;
        }
        let mut sizes = Deserializer::from_slice(&buffer).into_iter::<TerminalSize>();
        let mut taken = 0;
        while let Some(size) = sizes.next() {
            match size {
                Ok(size) => {
                    taken = sizes.byte_offset();
                    if sender.send(size).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.is_eof() => break,
                Err(_) => return,
            }
        }
        buffer.drain(..taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_are_found_wherever_the_bytes_are_cut() {
        let text = br#"{"Width":80,"Height":24}{"Width":100,"Height":50} "#;
        for cut in 0..text.len() {
            let (mut peer, io) = tokio::io::duplex(1024);
            let mut sizes = sizes_of(Some(io));
            peer.write_all(&text[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            peer.write_all(&text[cut..]).await.unwrap();
            drop(peer);
            assert_eq!(
                sizes.recv().await,
                Some(TerminalSize {
                    width: 80,
                    height: 24
                })
            );
            assert_eq!(
                sizes.recv().await,
                Some(TerminalSize {
                    width: 100,
                    height: 50
                })
            );
            assert_eq!(sizes.recv().await, None);
        }
    }

    #[tokio::test]
    async fn what_is_no_size_ends_the_channel() {
        for text in ["[]", r#"{"Width":-1,"Height":2}"#, &"{".repeat(5000)] {
            let (mut peer, io) = tokio::io::duplex(8192);
            let mut sizes = sizes_of(Some(io));
            peer.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(sizes.recv().await, None, "{text}");
        }
    }
}
