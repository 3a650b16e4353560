//! Serving CRI on a unix socket until a signal ends it. Containers run on without this program.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rrun_cri_api::probe::probe_server::ProbeServer;
use rrun_cri_api::v1::image_service_server::ImageServiceServer;
use rrun_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::config::{Config, Endpoint, Flags, Live};
use crate::daemon::Daemon;
use crate::exec::Streams;
use crate::reload::{self, SetFilter};
use crate::rpc::Service;
use crate::streaming::Streaming;
use crate::trace::Exporter;
use crate::{metrics, notify, nri, recover};

/// Largest message either way, as a kubelet has it.
const MESSAGE: usize = 16 << 20;

/// Time for calls that are under way when the daemon is told to end.
const GRACE: Duration = Duration::from_secs(2);

/// Time for traces that a collector has not got yet.
const TRACES: Duration = Duration::from_secs(5);

/// Opens the state, recovers, serves.
pub async fn serve(
    config: Config,
    live: Live,
    flags: Flags,
    set_filter: SetFilter,
    traces: Option<Exporter>,
) -> Result<()> {
    let traces = traces.map(Exporter::start).transpose()?;
    let daemon = Daemon::open(config, live).await?;
    if let Some(traces) = &traces {
        daemon.metrics.count_traces(traces.counts.clone());
    }
    let served = serve_daemon(daemon, flags, set_filter).await;
    if let Some(traces) = traces {
        traces.finish(TRACES).await;
    }
    served
}

async fn serve_daemon(daemon: Arc<Daemon>, flags: Flags, set_filter: SetFilter) -> Result<()> {
    let socket = daemon.config.socket.clone();
    recover::recover(&daemon).await?;
    reload::watch(daemon.clone(), flags, set_filter)?;
    let backend = Arc::new(Streams(Arc::downgrade(&daemon)));
    let streaming = Streaming::serve(daemon.config.stream_listen, backend).await?;
    if daemon.streaming.set(streaming).is_err() {
        bail!("the streaming server was started twice");
    }
    let mut sockets = serve_others(&daemon).await?;
    let handed = notify::listener()?;
    let handed_over = handed.is_some();
    let listener = if let Some(listener) = handed {
        // The socket of a service manager is its own to remove.
        UnixListener::from_std(listener).context("use the socket given")?
    } else {
        sockets.push(socket.clone());
        listen(&socket, "listen").await?
    };
    tracing::info!(socket = %socket.display(), handed_over, "serving CRI v1");
    notify::tell("READY=1");
    daemon.rest.watch();
    let ending = Notify::new();
    let signal = async {
        ended().await;
        ending.notify_one();
    };
    let incoming = UnixListenerStream::new(listener);
    let served = services(daemon).serve_with_incoming_shutdown(incoming, signal);
    tokio::select! {
        result = served => result.context("serve CRI")?,
        // A kubelet's stream of events never ends by itself.
        () = async {
            ending.notified().await;
            tokio::time::sleep(GRACE).await;
        } => {}
    }
    sockets.iter().try_for_each(|socket| remove(socket))
}

/// Both services of CRI, and what is served beside them.
fn services(daemon: Arc<Daemon>) -> Router {
    let service = Service(daemon);
    let runtime = RuntimeServiceServer::new(service.clone())
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let image = ImageServiceServer::new(service.clone())
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    Server::builder()
        .add_service(runtime)
        .add_service(image)
        .add_service(ProbeServer::new(service))
}

/// Serves metrics and NRI plugins; the sockets to remove at the end.
async fn serve_others(daemon: &Arc<Daemon>) -> Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    if let Some(endpoint) = &daemon.config.metrics {
        metrics::serve(endpoint, daemon).await?;
        if let Endpoint::Unix(path) = endpoint {
            sockets.push(path.clone());
        }
    }
    sockets.extend(nri::start(daemon).await?);
    Ok(sockets)
}

fn remove(socket: &Path) -> Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", socket.display()))
        }
        _ => Ok(()),
    }
}

/// Listens, in place of a socket that a killed daemon left; one that answers is another daemon's.
pub async fn listen(path: &Path, key: &str) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            bail!("{key} {}: exists and is no socket", path.display());
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            bail!("{key} {}: another program serves there", path.display());
        }
        Ok(_) => fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("stat {}", path.display())),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    // Whoever may speak CRI may do everything on the machine.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("chmod {}", path.display()))?;
    Ok(listener)
}

async fn ended() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    notify::tell("STOPPING=1");
    tracing::info!("ending; containers run on");
}
