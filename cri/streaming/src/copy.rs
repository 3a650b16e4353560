//! Copies bytes between two connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep};

/// Bytes copied at a time.
const BUFFER: usize = 32 << 10;

/// Copies both ways until both directions have ended, one has failed, or nothing has moved for
/// `idle`. An end in one direction is passed on as a half close.
pub async fn both_ways<A, B>(a: A, b: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (a_reader, a_writer) = split(a);
    let (b_reader, b_writer) = split(b);
    let clock = Clock::new();
    let copied = async {
        // The first failure ends both: the other direction may wait for ever.
        let _ = tokio::try_join!(
            one_way(a_reader, b_writer, &clock),
            one_way(b_reader, a_writer, &clock)
        );
    };
    tokio::select! {
        () = copied => {}
        () = clock.idle(idle) => {}
    }
}

async fn one_way<R: AsyncRead, W: AsyncWrite>(
    mut reader: ReadHalf<R>,
    mut writer: WriteHalf<W>,
    clock: &Clock,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return writer.shutdown().await;
        }
        clock.moved();
        writer.write_all(&buffer[..count]).await?;
        writer.flush().await?;
    }
}

/// When a byte moved last.
pub struct Clock {
    start: Instant,
    last: AtomicU64,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Notes that a byte moved.
    pub fn moved(&self) {
        let since = self.start.elapsed().as_millis() as u64;
        self.last.store(since, Ordering::Relaxed);
    }

    /// Ends once nothing has moved for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let quiet = self.start.elapsed().saturating_sub(last);
            match limit.checked_sub(quiet) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    }
}
