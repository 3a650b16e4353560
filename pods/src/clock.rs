//! The wall clock being set: by a person, or by NTP on a machine that woke up in the past.
//!
//! Timers count on while it jumps, so whoever sleeps towards an instant looks again when told.

use std::io;
use std::sync::LazyLock;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe;
use tokio::sync::watch;

static SETS: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

/// An instant that no clock comes to, in seconds since 1970; the kernel counts to 2^63 nanoseconds.
const NEVER: i64 = 1 << 33;

/// Changes whenever the clock is set.
pub fn sets() -> watch::Receiver<u64> {
    SETS.subscribe()
}

/// Tells everybody that it was set.
pub fn tell() {
    SETS.send_modify(|count| *count += 1);
}

/// Tells of every time that the clock is set, for as long as it is awaited.
pub async fn watch() -> io::Result<()> {
    let timer = timer()?;
    loop {
        timer.readable().await?;
        match timer.try_read(&mut [0; 8]) {
            Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => {
                tracing::info!("the clock was set");
                tell();
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
}

/// A timer that is called off when the clock is set (Linux 3.0).
fn timer() -> io::Result<pipe::Receiver> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    let at = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
    let never = Itimerspec {
        it_interval: at(0),
        it_value: at(NEVER),
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(&timer, flags, &never)?;
    // What it gives is read as a pipe is.
    pipe::Receiver::from_owned_fd_unchecked(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_nobody_sets_tells_nothing() {
        let timer = timer().unwrap();
        let waited = std::time::Duration::from_millis(50);
        let told = tokio::time::timeout(waited, timer.readable()).await;
        assert!(
            told.is_err(),
            "the kernel takes the timer, and it is far away"
        );
    }
}
