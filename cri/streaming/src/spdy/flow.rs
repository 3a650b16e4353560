//! Flow control of SPDY/3.1 (draft 3.1, section 2.6.8), in the form that the module's doc tells.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The window of a stream and of the session before anybody says another, in bytes.
const INITIAL: u64 = 64 << 10;
/// Received bytes that are granted back at once rather than one by one.
const GRANT: u64 = INITIAL / 2;
/// What one WINDOW_UPDATE can say.
const LARGEST_GRANT: u64 = 0x7fff_ffff;

#[derive(Default)]
struct Window {
    sent: u64,
    /// Bytes that the peer granted beyond the initial window.
    granted: u64,
    received: u64,
}

impl Window {
    fn left(&self, initial: u64) -> u64 {
        initial
            .saturating_add(self.granted)
            .saturating_sub(self.sent)
    }

    /// What to grant the peer now, if it is worth a frame.
    fn grant(&mut self) -> Option<u32> {
        if self.received < GRANT {
            return None;
        }
        let delta = self.received.min(LARGEST_GRANT);
        self.received -= delta;
        Some(delta as u32)
    }
}

#[derive(Default)]
struct State {
    /// Initial window of streams; none while the peer takes no part in flow control.
    initial: Option<u64>,
    /// Whether the peer counts the session's window.
    session_counts: bool,
    session: Window,
    streams: HashMap<u32, Window>,
}

impl State {
    fn left(&self, stream: u32) -> Option<u64> {
        let window = self.streams.get(&stream)?;
        let stream = self
            .initial
            .map_or(u64::MAX, |initial| window.left(initial));
        let session = if self.session_counts {
            self.session.left(INITIAL)
        } else {
            u64::MAX
        };
        Some(stream.min(session))
    }
}

/// The windows of a connection in both directions.
pub struct Flow {
    state: Mutex<State>,
    changed: Notify,
}

impl Flow {
    /// Of a new connection.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only numbers: a panic elsewhere leaves them as good as they were.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins.
    pub fn add(&self, stream: u32) {
        self.state().streams.insert(stream, Window::default());
    }

    /// A stream has ended; whoever waits to send on it is told.
    pub fn remove(&self, stream: u32) {
        self.state().streams.remove(&stream);
        self.changed.notify_waiters();
    }

    /// Waits until the peer takes something, and gives how many bytes, at most `wanted`. None when
    /// the stream has ended.
    pub async fn reserve(&self, stream: u32, wanted: usize) -> Option<usize> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before the look, so that a change between the two is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                let count = state.left(stream)?.min(wanted as u64);
                if count > 0 {
                    state.session.sent += count;
                    state.streams.get_mut(&stream)?.sent += count;
                    return Some(count as usize);
                }
            }
            changed.await;
        }
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE from the peer.
    pub fn set_initial(&self, window: u32) {
        self.state().initial = Some(u64::from(window));
        self.changed.notify_waiters();
    }

    /// WINDOW_UPDATE from the peer.
    pub fn granted(&self, stream: u32, delta: u32) {
        let mut state = self.state();
        state.initial.get_or_insert(INITIAL);
        let window = if stream == 0 {
            state.session_counts = true;
            Some(&mut state.session)
        } else {
            state.streams.get_mut(&stream)
        };
        if let Some(window) = window {
            window.granted = window.granted.saturating_add(u64::from(delta));
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Counts data from the peer, and gives the WINDOW_UPDATEs that are due for the stream and,
    /// to peers that take part, for the session.
    pub fn received(&self, stream: u32, count: usize) -> (Option<u32>, Option<u32>) {
        let count = count as u64;
        let mut state = self.state();
        state.session.received += count;
        let session = if state.initial.is_some() {
            state.session.grant()
        } else {
            None
        };
        let stream = state.streams.get_mut(&stream).and_then(|window| {
            window.received += count;
            window.grant()
        });
        (stream, session)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_peer_without_flow_control_is_sent_everything() {
        let flow = Flow::new();
        flow.add(1);
        assert_eq!(flow.reserve(1, 1 << 30).await, Some(1 << 30));
    }

    #[tokio::test]
    async fn a_window_is_kept_once_the_peer_counts() {
        let flow = Flow::new();
        flow.add(1);
        flow.set_initial(10);
        assert_eq!(flow.reserve(1, 100).await, Some(10));
        let waiting = flow.reserve(1, 100);
        tokio::pin!(waiting);
        assert!(
            timeout(Duration::from_millis(20), &mut waiting)
                .await
                .is_err()
        );
        flow.granted(1, 5);
        assert_eq!(waiting.await, Some(5));
    }

    #[tokio::test]
    async fn a_window_that_appears_late_counts_what_was_sent() {
        let flow = Flow::new();
        flow.add(1);
        flow.reserve(1, 60 << 10).await;
        flow.granted(1, 1);
        assert_eq!(flow.reserve(1, 1 << 20).await, Some((4 << 10) + 1));
    }

    #[tokio::test]
    async fn an_ended_stream_lets_its_sender_go() {
        let flow = Flow::new();
        flow.add(1);
        flow.set_initial(0);
        let waiting = flow.reserve(1, 1);
        tokio::pin!(waiting);
        assert!(
            timeout(Duration::from_millis(20), &mut waiting)
                .await
                .is_err()
        );
        flow.remove(1);
        assert_eq!(waiting.await, None);
    }

    #[test]
    fn what_was_received_is_granted_in_large_steps() {
        let flow = Flow::new();
        flow.add(1);
        assert_eq!(flow.received(1, 100), (None, None));
        assert_eq!(flow.received(1, 40_000), (Some(40_100), None));
        flow.set_initial(1);
        // The session's first bytes are not forgotten.
        assert_eq!(flow.received(1, 40_000), (Some(40_000), Some(80_100)));
    }
}
