//! Memory that the daemon needs while it is busy, given back some seconds after it was.
//!
//! Only calls that change something count: a kubelet lists and probes without end, and what that
//! needs is back at once. Nothing is looked at while nothing changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// How long nothing may change.
const QUIET: Duration = Duration::from_secs(4);

/// After the start, whose code is not needed again.
const STARTED: Duration = Duration::from_millis(500);

/// Told of changes.
#[derive(Debug, Default)]
pub struct Rest(Arc<Notify>);

impl Rest {
    /// Something changed.
    pub fn note(&self) {
        self.0.notify_one();
    }

    /// Begins to wait for rests.
    pub fn watch(&self) {
        tokio::spawn(watch(self.0.clone()));
    }
}

async fn watch(changed: Arc<Notify>) {
    let mut quiet = STARTED;
    loop {
        while tokio::time::timeout(quiet, changed.notified())
            .await
            .is_ok()
        {
            quiet = QUIET;
        }
        quiet = QUIET;
        // It cannot fail but by a panic, and the daemon is as well off without.
        let _ = tokio::task::spawn_blocking(rrun_sys::mem::rest_of_threads).await;
        changed.notified().await;
    }
}
