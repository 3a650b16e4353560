//! `rrun-pods serve`: puts the parts together and runs them until told to stop.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::allocate::Cidr;
use crate::api::{Client, Config, bootstrap, http};
use crate::store::Store;

/// Options of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Directory of the durable state.
    #[arg(long, default_value = "/var/lib/rrun/pods")]
    pub root: PathBuf,
    /// Unix socket of the API, for root.
    #[arg(long, default_value = "/run/rrun-pods/api.sock")]
    pub socket: PathBuf,
    /// Addresses of Services.
    #[arg(long, default_value_t)]
    pub service_cidr: Cidr,
    /// Say what is done: error, warn, info, debug or trace.
    #[arg(long, default_value = "info")]
    pub log_level: tracing::Level,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(options: &Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(options.log_level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    // One thread: the work is short, and a thread's arena costs more memory than it saves time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&options.root)?;
    let config = Config {
        service_cidr: options.service_cidr,
    };
    let client = Client::with(store.clone(), config);
    bootstrap::objects(&client)
        .await
        .context("creating the objects that always exist")?;
    let context = http::Context::new(client.clone(), None);
    let _unix = http::unix(context.clone(), &options.socket)
        .with_context(|| format!("listening on {}", options.socket.display()))?;
    tracing::info!("serving on unix://{}", options.socket.display());
    stop_signal().await?;
    tracing::info!("stopping");
    let _ = std::fs::remove_file(&options.socket);
    store.close();
    Ok(())
}

async fn stop_signal() -> std::io::Result<()> {
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
