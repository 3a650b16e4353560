//! Connections to endpoints that wait for the next request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// So many wait for one endpoint.
const IDLE: usize = 16;
/// A connection that waited longer may be closing at the other end.
const FRESH: Duration = Duration::from_secs(20);
/// An endpoint that does not take a connection by then is away.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection that takes requests.
pub type Sender = SendRequest<Incoming>;

type Waiting = HashMap<SocketAddr, Vec<(Instant, Sender)>>;

/// See the module; cheap to clone.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<Waiting>>);

impl Pool {
    /// A connection that waited, if there is one.
    pub fn take(&self, to: SocketAddr) -> Option<Sender> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.get_mut(&to)?;
        // The last that came is the freshest.
        while let Some((since, sender)) = waiting.pop() {
            if since.elapsed() < FRESH && sender.is_ready() {
                return Some(sender);
            }
        }
        all.remove(&to);
        None
    }

    /// Keeps a connection for the next request.
    pub fn keep(&self, to: SocketAddr, sender: Sender) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, waiting| {
            waiting.retain(|(since, s)| since.elapsed() < FRESH && !s.is_closed());
            !waiting.is_empty()
        });
        let waiting = all.entry(to).or_default();
        if waiting.len() < IDLE {
            waiting.push((Instant::now(), sender));
        }
    }
}

/// A new connection.
pub async fn connect(to: SocketAddr) -> Result<Sender, String> {
    let io = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await;
    let io = io.map_err(|_| "no answer".to_owned())?;
    let io = io.map_err(|e| e.to_string())?;
    let _ = io.set_nodelay(true);
    let made = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(io))
        .await;
    let (sender, connection) = made.map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}
