//! The DNS server of the cluster, inside the process: Services and pods by name, everything else
//! from the machine's own servers.
//!
//! ```text
//! pod ─ UDP or TCP 53 of the cluster's DNS address ─▶ nftables (proxy) ─▶ this server
//!                                                        zone.rs: ours      forward.rs: the rest
//! ```
//!
//! Answers are made from the store at the moment of the question: nothing is cached, so a changed
//! endpoint is live at once.

mod forward;
mod store;
#[cfg(test)]
mod tests;
mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::api::Client;
use crate::proxy::mark::mark;
use zone::{Answer, Records, Zone};

/// Questions answered at the same time; further datagrams wait in the socket's buffer.
const AT_ONCE: usize = 256;
/// How long a TCP client may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Octets of a UDP answer to a client that did not say more (RFC 1035, 4.2.1).
const PLAIN_DATAGRAM: usize = 512;
/// The most we send in one datagram: fits an IPv6 packet of minimum size (RFC 6891, 6.2.5).
const LARGE_DATAGRAM: usize = 1232;

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, over UDP and TCP.
    pub listen: SocketAddr,
    /// The cluster's domain, `cluster.local` as a rule.
    pub domain: String,
    /// Whose name servers answer for other domains.
    pub resolv_conf: PathBuf,
}

/// A bound server.
pub struct Server {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    answers: Arc<Answers<store::StoreRecords>>,
}

impl Server {
    /// Binds both sockets, on the same port.
    ///
    /// # Errors
    ///
    /// Where the address is taken or the domain is not one; the message names it.
    pub async fn bind(config: &Config, client: Client) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let zone = Zone::new(&config.domain).map_err(anyhow::Error::msg)?;
        let udp = UdpSocket::bind(config.listen)
            .await
            .with_context(|| format!("DNS: bind UDP {}", config.listen))?;
        let address = udp.local_addr()?;
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("DNS: bind TCP {address}"))?;
        let answers = Answers {
            zone,
            records: store::StoreRecords::new(client),
            resolv_conf: config.resolv_conf.clone(),
        };
        Ok(Self {
            udp: Arc::new(udp),
            tcp,
            answers: Arc::new(answers),
        })
    }

    /// Where it listens; the port is chosen by the kernel if it was 0.
    ///
    /// # Errors
    ///
    /// The kernel's own.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Marks both sockets as this process's own, for the guard of their port. False where that is not
    /// allowed.
    pub fn mark(&self) -> bool {
        mark(&*self.udp) && mark(&self.tcp)
    }

    /// Serves until the future is dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        tokio::join!(
            serve_udp(self.udp, self.answers.clone(), places.clone()),
            serve_tcp(self.tcp, self.answers, places),
        );
    }
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    answers: Arc<Answers<store::StoreRecords>>,
    places: Arc<Semaphore>,
) {
    let mut buffer = [0; 4096];
    loop {
        let place = places.clone().acquire_owned().await;
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "DNS: receive");
                continue;
            }
        };
        let query = buffer[..length].to_vec();
        let (socket, answers) = (socket.clone(), answers.clone());
        tokio::spawn(async move {
            if let Some(answer) = answers.answer(&query, Transport::Udp).await
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!(%error, %client, "DNS: send");
            }
            drop(place);
        });
    }
}

async fn serve_tcp(
    listener: TcpListener,
    answers: Arc<Answers<store::StoreRecords>>,
    places: Arc<Semaphore>,
) {
    loop {
        let place = places.clone().acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "DNS: accept");
                // Out of descriptors: without a pause this would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let _ = converse(stream, &answers).await;
            drop(place);
        });
    }
}

/// Questions and answers of one TCP connection (RFC 7766), until the client is silent.
async fn converse(mut stream: TcpStream, answers: &Answers<impl Records>) -> std::io::Result<()> {
    while let Ok(length) = timeout(SILENCE, stream.read_u16()).await? {
        let mut query = vec![0; usize::from(length)];
        timeout(SILENCE, stream.read_exact(&mut query)).await??;
        let Some(answer) = answers.answer(&query, Transport::Tcp).await else {
            break;
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(SILENCE, stream.write_all(&framed)).await??;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

struct Answers<R> {
    zone: Zone,
    records: R,
    resolv_conf: PathBuf,
}

impl<R: Records> Answers<R> {
    /// The answer to a message; `None` where it is not even a question.
    async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(query) = Message::from_vec(message) else {
            return format_error(message);
        };
        if query.metadata.message_type != MessageType::Query {
            return None; // answering answers makes loops
        }
        if query.metadata.op_code != OpCode::Query {
            return respond(&query, ResponseCode::NotImp, Vec::new(), None, transport);
        }
        let [question] = query.queries.as_slice() else {
            return respond(&query, ResponseCode::FormErr, Vec::new(), None, transport);
        };
        if question.query_class != DNSClass::IN {
            return respond(&query, ResponseCode::Refused, Vec::new(), None, transport);
        }
        match self
            .zone
            .answer(&question.name, question.query_type, &self.records)
        {
            Answer::Found(found) if !found.is_empty() => {
                respond(&query, ResponseCode::NoError, found, None, transport)
            }
            Answer::Found(_) => respond(
                &query,
                ResponseCode::NoError,
                Vec::new(),
                Some(self.zone.soa()),
                transport,
            ),
            Answer::NoSuchName => respond(
                &query,
                ResponseCode::NXDomain,
                Vec::new(),
                Some(self.zone.soa()),
                transport,
            ),
            Answer::Foreign => match self.forward(message, transport).await {
                Some(answer) => Some(answer),
                None => respond(&query, ResponseCode::ServFail, Vec::new(), None, transport),
            },
        }
    }

    /// Read anew each time: the machine's servers change with its network.
    async fn forward(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let servers = forward::servers(&self.resolv_conf);
        match transport {
            Transport::Udp => forward::over_udp(message, &servers).await,
            Transport::Tcp => forward::over_tcp(message, &servers).await,
        }
    }
}

fn respond(
    query: &Message,
    code: ResponseCode,
    answers: Vec<Record>,
    authority: Option<Record>,
    transport: Transport,
) -> Option<Vec<u8>> {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.authoritative =
        matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    response.metadata.response_code = code;
    response.queries.clone_from(&query.queries);
    response.answers = answers;
    response.authorities.extend(authority);
    let bytes = response.to_vec().ok()?;
    let limit = match (transport, &query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_DATAGRAM,
        (Transport::Udp, Some(_)) => {
            usize::from(query.max_payload()).clamp(PLAIN_DATAGRAM, LARGE_DATAGRAM)
        }
    };
    if bytes.len() <= limit {
        return Some(bytes);
    }
    response.truncate().to_vec().ok()
}

/// FORMERR for what has a header and is no message.
fn format_error(message: &[u8]) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(message.get(..2)?.try_into().ok()?);
    let is_query = message.get(2)? & 0x80 == 0;
    let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    is_query.then(|| error.to_vec().ok()).flatten()
}
