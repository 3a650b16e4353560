//! Port-forward at the server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, split};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;

use super::negotiate::{Carrier, Offer, agree};
use super::{Upgrade, upgraded};
use crate::channels::{Channels, Framing};
use crate::copy::both_ways;
use crate::link::Link;
use crate::spdy::connection::{Connection, Role, Stream};
use crate::spdy::headers::Headers;
use crate::tunnel::tunnel;
use crate::{Error, Limits, ReadStream, WriteStream};

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const OFFER: Offer = Offer {
    spdy: &["portforward.k8s.io"],
    websocket: &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"],
};
/// Two channels a port, numbered by a byte or a digit.
const MOST_PORTS: usize = 100;
const MOST_PORTS_BASE64: usize = 5;

/// A port-forward session: the client opens a pair of streams for each connection.
pub struct PortForward {
    source: Source,
    limits: Limits,
    /// The tunnel's WebSocket.
    _tunnel: Option<Link>,
}

enum Source {
    Spdy {
        connection: Connection,
        /// Halves of pairs, by request id, and when they are given up.
        waiting: HashMap<String, (Stream, Instant)>,
    },
    WebSocket {
        link: Link,
        forwarded: Vec<Forwarded>,
    },
}

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

impl Forwarded {
    fn new(port: u16, data: DuplexStream, error: DuplexStream) -> Self {
        let (reader, writer) = split(data);
        Self {
            port,
            reader: Box::new(reader),
            writer: Box::new(writer),
            error: Box::new(error),
        }
    }

    /// Connects by `connect` and copies both ways until both sides are done. A failure to connect
    /// is told to the client.
    async fn serve<C, F, IO>(self, connect: &C, idle: Duration)
    where
        C: Fn(u16) -> F,
        F: Future<Output = Result<IO, String>>,
        IO: AsyncRead + AsyncWrite,
    {
        let Self {
            port,
            reader,
            writer,
            mut error,
        } = self;
        match connect(port).await {
            Ok(io) => {
                // Before 1.30, kubectl closes a connection only once it knows that no error comes.
                let _ = error.shutdown().await;
                both_ways(tokio::io::join(reader, writer), io, idle).await;
            }
            Err(message) => {
                // A client that is gone needs no message.
                let _ = error.write_all(message.as_bytes()).await;
                let _ = error.shutdown().await;
            }
        }
    }
}

impl PortForward {
    /// The next connection that the client opened; none when the client is gone.
    pub async fn next(&mut self) -> Option<Forwarded> {
        match &mut self.source {
            Source::WebSocket { link, forwarded } => {
                if let Some(forwarded) = forwarded.pop() {
                    Some(forwarded)
                } else {
                    link.gone().await;
                    None
                }
            }
            Source::Spdy {
                connection,
                waiting,
            } => next_pair(connection, waiting, &self.limits).await,
        }
    }

    /// Serves the session to its end: each connection goes to what `connect` gives for its port,
    /// or else the client is told the error.
    pub async fn serve<C, F, IO>(mut self, connect: C)
    where
        C: Fn(u16) -> F + Send + Sync + 'static,
        F: Future<Output = Result<IO, String>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (connect, idle) = (Arc::new(connect), self.limits.idle);
        let mut connections = JoinSet::new();
        while let Some(forwarded) = self.next().await {
            let connect = connect.clone();
            connections.spawn(async move { forwarded.serve(&*connect, idle).await });
            while connections.try_join_next().is_some() {}
        }
        // The client is gone, and with it both ends of what is left.
        connections.shutdown().await;
    }
}

async fn next_pair(
    connection: &mut Connection,
    waiting: &mut HashMap<String, (Stream, Instant)>,
    limits: &Limits,
) -> Option<Forwarded> {
    loop {
        let soonest = waiting.values().map(|(_, until)| *until).min();
        let overdue = async {
            match soonest {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            stream = connection.accept() => stream?,
            () = overdue => {
                waiting.retain(|_, (_, until)| *until > Instant::now());
                continue;
            }
        };
        let id = request_id(&stream);
        match waiting.remove(&id) {
            None => {
                waiting.insert(id, (stream, Instant::now() + limits.creation));
            }
            Some((other, _)) if is_data(&other.headers) == is_data(&stream.headers) => {
                // Two of a kind: both are dropped, which closes them.
            }
            Some((other, _)) => {
                let (data, error) = if is_data(&stream.headers) {
                    (stream, other)
                } else {
                    (other, stream)
                };
                let port = port(&data.headers)?;
                return Some(Forwarded::new(port, data.io, error.io));
            }
        }
    }
}

fn is_data(headers: &Headers) -> bool {
    headers.get("streamType") == Some("data")
}

fn port(headers: &Headers) -> Option<u16> {
    headers.get("port")?.parse().ok().filter(|port| *port > 0)
}

fn admit(headers: &Headers) -> bool {
    let kind = headers.get("streamType");
    matches!(kind, Some("data" | "error")) && port(headers).is_some()
}

/// What the two streams of a connection share. Clients that name no id open the error stream and
/// then the data stream.
fn request_id(stream: &Stream) -> String {
    match stream.headers.get("requestID") {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ if is_data(&stream.headers) => format!("stream {}", stream.id.saturating_sub(2)),
        _ => format!("stream {}", stream.id),
    }
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
    let agreed = agree(request, &OFFER)?;
    let (carrier, protocol, limits) = (agreed.carrier, agreed.protocol, *limits);
    let channels = carrier == Carrier::WebSocket && protocol != TUNNEL;
    if channels {
        check_ports(ports, protocol)?;
    }
    let (on, ports) = (hyper::upgrade::on(request), ports.to_vec());
    let session = Box::pin(async move {
        let io = upgraded(on).await?;
        if channels {
            return websocket(io, protocol, &ports, limits).await;
        }
        if carrier == Carrier::Spdy {
            return Ok(spdy(io, limits, None));
        }
        let (io, link) = tunnel(io, WebSocketRole::Server, &limits).await;
        Ok(spdy(io, limits, Some(link)))
    });
    Ok(Upgrade {
        response: agreed.response,
        session,
    })
}

fn check_ports(ports: &[u16], protocol: &str) -> Result<(), Error> {
    let most = if protocol.contains("base64") {
        MOST_PORTS_BASE64
    } else {
        MOST_PORTS
    };
    if (1..=most).contains(&ports.len()) && !ports.contains(&0) {
        return Ok(());
    }
    Err(Error::refused(
        StatusCode::BAD_REQUEST,
        format!(
            "{} ports in the query: 1 to {most} are expected",
            ports.len()
        ),
    ))
}

fn spdy<IO>(io: IO, limits: Limits, tunnel: Option<Link>) -> PortForward
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = Connection::new(io, Role::Server, &limits, admit);
    let source = Source::Spdy {
        connection,
        waiting: HashMap::new(),
    };
    PortForward {
        source,
        limits,
        _tunnel: tunnel,
    }
}

async fn websocket(
    io: TokioIo<Upgraded>,
    protocol: &str,
    ports: &[u16],
    limits: Limits,
) -> Result<PortForward, Error> {
    let framing = Framing {
        base64: protocol.contains("base64"),
        close: false,
    };
    let mut channels = Channels::new(framing, WebSocketRole::Server, &limits);
    let mut forwarded = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let channel = 2 * index as u8;
        let (mut data, _) = channels.both(channel);
        let (mut error, _) = channels.to_peer(channel + 1);
        // Each channel begins with its port, little-endian.
        for io in [&mut data, &mut error] {
            let greeted = io.write_all(&port.to_le_bytes()).await;
            greeted.map_err(|error| Error::io("name the port", error))?;
        }
        forwarded.push(Forwarded::new(*port, data, error));
    }
    let link = channels.run(io, &limits).await;
    let source = Source::WebSocket { link, forwarded };
    Ok(PortForward {
        source,
        limits,
        _tunnel: None,
    })
}
