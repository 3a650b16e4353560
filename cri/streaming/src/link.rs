//! The connection under a session, whatever its protocol.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a peer may take to read what is left and to close, once a session has ended.
pub const PARTING: Duration = Duration::from_secs(10);

/// The tasks of a connection. Dropping it ends them and so closes the connection.
pub struct Link {
    tasks: Vec<JoinHandle<()>>,
    gone: watch::Receiver<bool>,
}

impl Link {
    /// `gone` turns true when the peer is gone.
    pub fn new(gone: watch::Receiver<bool>, tasks: Vec<JoinHandle<()>>) -> Self {
        Self { tasks, gone }
    }

    /// Ends when the peer is gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut gone = self.gone.clone();
        async move {
            // An error means that the reading task has ended, as it does when the peer is gone.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    /// Waits until the peer is gone, at most [`PARTING`].
    pub async fn part(&self) {
        let _ = timeout(PARTING, self.gone()).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Waits until everything that the callers wrote has been sent, at most [`PARTING`].
pub async fn drain(senders: Vec<JoinHandle<()>>) {
    let all = async {
        for sender in senders {
            // A task that was aborted has nothing more to send.
            let _ = sender.await;
        }
    };
    let _ = timeout(PARTING, all).await;
}
