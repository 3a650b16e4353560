//! Where requests come in.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

use super::{Context, handle};

/// Serves one connection until it closes.
async fn connection(cx: Arc<Context>, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| handle(cx.clone(), request));
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
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((io, _)) => drop(tokio::spawn(connection(cx.clone(), io))),
                Err(e) => back_off(&e).await,
            }
        }
    }))
}

/// Out of descriptors, most likely: waiting lets others be closed.
async fn back_off(e: &io::Error) {
    tracing::warn!("accepting a connection: {e}");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}
