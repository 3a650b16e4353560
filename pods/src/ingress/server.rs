//! Connections of clients, bounded in number and in time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::forward::{Arrival, Front, handle};
use super::pool::Pool;
use super::table::Table;

/// Connections at a time; more wait in the kernel's queue.
const ALL: usize = 4096;
/// Of one address, so that one client leaves room for others.
const OF_ONE: usize = 512;
/// Time for a TLS handshake, and for the head of a request.
const HEAD: Duration = Duration::from_secs(15);
/// Bytes of a request's head.
const HEAD_SIZE: usize = 64 << 10;
/// Fields of a request's head.
const FIELDS: usize = 128;
/// Requests at a time on a connection of HTTP/2.
const STREAMS: u32 = 128;

/// Who is connected.
#[derive(Clone, Default)]
struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place among the connections, given back when it is dropped.
struct Place(Clients, IpAddr);

impl Clients {
    fn enter(&self, client: IpAddr) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= ALL {
            return None;
        }
        let mine = all.entry(client).or_default();
        if *mine >= OF_ONE {
            return None;
        }
        *mine += 1;
        Some(Place(self.clone(), client))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let all = &self.0.0;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

/// A port that is served.
#[derive(Clone)]
struct Door {
    front: Front,
    clients: Clients,
    port: u16,
    tls: Option<TlsAcceptor>,
}

/// The thread that serves. It ends when this is dropped.
pub struct Server {
    stop: watch::Sender<bool>,
}

impl Server {
    /// Serves on a listener that is bound already; with a configuration over TLS.
    pub fn start(
        table: Arc<RwLock<Arc<Table>>>,
        listener: std::net::TcpListener,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let (stop, mut stopped) = watch::channel(false);
        let door = Door {
            front: Front {
                table,
                pool: Pool::default(),
            },
            clients: Clients::default(),
            port: listener.local_addr()?.port(),
            tls: tls.map(TlsAcceptor::from),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        std::thread::Builder::new()
            .name("ingress".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = accept(listener, door) => {}
                        _ = stopped.wait_for(|stop| *stop) => {}
                    }
                });
                // What is under way is cut off: the process or the last Ingress ends.
                runtime.shutdown_background();
            })?;
        Ok(Self { stop })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(listener: TcpListener, door: Door) {
    loop {
        match listener.accept().await {
            Ok((io, from)) => {
                let client = from.ip().to_canonical();
                // Refused by closing: it costs nobody anything.
                if let Some(place) = door.clients.enter(client) {
                    tokio::spawn(connection(door.clone(), io, client, place));
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: waiting lets others be closed.
                tracing::warn!("ingress: accepting a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(door: Door, io: TcpStream, client: IpAddr, place: Place) {
    let _ = io.set_nodelay(true);
    let arrival = Arrival {
        client,
        tls: door.tls.is_some(),
        port: door.port,
    };
    let Some(acceptor) = &door.tls else {
        one(door.front, arrival, io).await;
        return drop(place);
    };
    match tokio::time::timeout(HEAD, acceptor.accept(io)).await {
        Ok(Ok(io)) if io.get_ref().1.alpn_protocol() == Some(b"h2") => {
            two(door.front, arrival, io).await;
        }
        Ok(Ok(io)) => one(door.front, arrival, io).await,
        Ok(Err(error)) => tracing::debug!("ingress: TLS handshake with {client}: {error}"),
        Err(_) => tracing::debug!("ingress: TLS handshake with {client}: it took too long"),
    }
    drop(place);
}

async fn one(
    front: Front,
    arrival: Arrival,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(handle(front, arrival, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .max_headers(FIELDS)
        .max_header_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!("ingress: {}: {error}", arrival.client);
    }
}

async fn two(
    front: Front,
    arrival: Arrival,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(handle(front, arrival, request).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_SIZE as u32)
        .max_send_buf_size(HEAD_SIZE)
        // A client that is gone without a word.
        .keep_alive_interval(HEAD * 2)
        .keep_alive_timeout(HEAD)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("ingress: {}: {error}", arrival.client);
    }
}

/// Takes a port of the node.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
