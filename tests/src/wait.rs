//! Waiting for a condition, with a limit that suits slow machines.

use std::time::{Duration, Instant};

/// Waits until `condition` holds, looking every 10 ms for at most `limit` times
/// `RRUN_TIME_SCALE` (a whole number; the emulated cgroup v2 machine sets 20).
///
/// # Panics
///
/// Where the condition does not hold in time; the message names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let scale = std::env::var("RRUN_TIME_SCALE")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let end = Instant::now() + limit * scale;
    while !condition() {
        assert!(
            Instant::now() < end,
            "waited {limit:?} (times {scale}) in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
