//! SIGHUP: the configuration is read again. What can change does; what cannot is named.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{self, Flags};
use crate::daemon::Daemon;
use crate::notify;

/// Puts another filter before the log.
pub type SetFilter = Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>;

/// Waits for SIGHUP in a task of its own.
pub fn watch(daemon: Arc<Daemon>, flags: Flags, set_filter: SetFilter) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("wait for SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            notify::reloading();
            match reload(&daemon, &flags, &set_filter) {
                Ok(()) => tracing::info!("the configuration was read again"),
                Err(error) => {
                    tracing::error!("the configuration stays as it was: {error:#}");
                }
            }
            notify::tell("READY=1");
        }
    });
    Ok(())
}

fn reload(daemon: &Daemon, flags: &Flags, set_filter: &SetFilter) -> Result<()> {
    let (_, live) = config::load(flags)?;
    for key in config::needs_restart(daemon.live().file(), live.file()) {
        tracing::warn!(key, "changed in the file, but counts only after a restart");
    }
    set_filter(EnvFilter::try_new(&live.log).context("the log's filter")?)?;
    daemon.set_live(live);
    Ok(())
}
