//! Where requests come in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::{Context, Who, handle};
use crate::api::auth::{User, certificate};

/// Serves one connection until it closes.
async fn connection(
    cx: Arc<Context>,
    who: Who,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| handle(cx.clone(), who.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    if let Err(e) = served {
        tracing::debug!("connection: {e}");
    }
}

/// Listens on a unix socket, for root alone. A socket left by a process that is gone is replaced.
pub fn unix(cx: Arc<Context>, path: &Path) -> io::Result<tokio::task::JoinHandle<()>> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let admin = Some(Arc::new(User::admin()));
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((io, _)) => drop(tokio::spawn(connection(cx.clone(), admin.clone(), io))),
                Err(e) => back_off(&e).await,
            }
        }
    }))
}

/// Time that a client has to finish the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves a listener with TLS. Who shows a certificate of the authority is who the certificate says.
pub fn tls(cx: Arc<Context>, listener: TcpListener, config: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((io, _)) => drop(tokio::spawn(handshake(cx.clone(), acceptor.clone(), io))),
                Err(e) => back_off(&e).await,
            }
        }
    });
}

async fn handshake(cx: Arc<Context>, acceptor: TlsAcceptor, io: TcpStream) {
    let _ = io.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(io)).await {
        Ok(Ok(io)) => {
            let shown = io.get_ref().1.peer_certificates();
            let user = shown.and_then(|all| certificate::user(all.first()?));
            let who = user.map(Arc::new);
            connection(cx, who, io).await;
        }
        Ok(Err(e)) => tracing::debug!("TLS handshake: {e}"),
        Err(_) => tracing::debug!("TLS handshake: the client took too long"),
    }
}

/// Out of descriptors, most likely: waiting lets others be closed.
async fn back_off(e: &io::Error) {
    tracing::warn!("accepting a connection: {e}");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}
