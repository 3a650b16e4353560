//! Memory that the daemon needs while it is busy, given back some seconds after it was.
//!
//! Only what changes something durable counts, and large answers: clients list and watch without end,
//! and what that needs is back at once. Nothing is looked at while nothing happens.

use std::time::Duration;

use tokio::sync::Notify;

/// How long nothing may happen.
const QUIET: Duration = Duration::from_secs(4);
/// After the start, whose code is not needed again.
const STARTED: Duration = Duration::from_secs(2);
/// Answers of so many bytes are large: their trees were ten times as much.
const LARGE: usize = 256 << 10;

static HAPPENED: Notify = Notify::const_new();

/// Something changed.
pub fn note() {
    HAPPENED.notify_one();
}

/// An answer of so many bytes was made.
pub fn answered(bytes: usize) {
    if bytes >= LARGE {
        note();
    }
}

/// Waits for rests, without end.
pub async fn watch() {
    let mut quiet = STARTED;
    loop {
        while tokio::time::timeout(quiet, HAPPENED.notified())
            .await
            .is_ok()
        {
            quiet = QUIET;
        }
        quiet = QUIET;
        // It cannot fail but by a panic, and the daemon is as well off without.
        let _ = tokio::task::spawn_blocking(rrun_sys::mem::rest_of_threads).await;
        HAPPENED.notified().await;
    }
}
