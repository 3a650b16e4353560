//! Fault injection for the tests of recovery, in builds with debug assertions only: the environment
//! variable says before or after which durable write the daemon kills itself with SIGKILL.

/// Number of the point at which to die, counted from 1: two for each durable write, one before its
/// commit and one after it.
#[cfg(debug_assertions)]
const VARIABLE: &str = "RRUN_CRI_DIE_AT";

/// A point at which a kill -9 may come.
#[cfg(debug_assertions)]
pub fn point() {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static AT: LazyLock<Option<u32>> = LazyLock::new(|| std::env::var(VARIABLE).ok()?.parse().ok());
    static PASSED: AtomicU32 = AtomicU32::new(0);
    if let Some(at) = *AT
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == at
    {
        use nix::sys::signal::{Signal, kill};
        let _ = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
        // Nothing of this thread happens after it.
        loop {
            std::thread::park();
        }
    }
}

/// A point at which a kill -9 may come: nothing in what is delivered.
#[cfg(not(debug_assertions))]
pub fn point() {}
