//! One large blob over several connections: its ranges are fetched beside each other and handed
//! on in order. A registry or a mirror often gives one connection less than the line could carry.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{BlobStream, Remote};
use crate::{Digest, Error, Result};

/// Bytes of a range. As many of them as there are connections wait in memory at most.
const LENGTH: u64 = 4 << 20;
/// Blobs below this size are fetched over one connection.
pub(crate) const LARGE: u64 = 4 * LENGTH;

/// A blob in pieces, in order, over one or more connections.
pub(crate) struct BlobSource {
    remote: Arc<Remote>,
    digest: Digest,
    size: u64,
    /// What was handed on, where the whole rest is wanted.
    at: u64,
    /// What is to be asked for, in order.
    left: VecDeque<Range<u64>>,
    /// A registry that knows no ranges is an error.
    parts: bool,
    connections: usize,
    ranges: VecDeque<mpsc::UnboundedReceiver<Piece>>,
    tasks: JoinSet<()>,
    plain: Option<BlobStream>,
    broken: Option<String>,
}

enum Piece {
    Bytes(Bytes),
    Retry(String),
    Failed(Error),
}

impl BlobSource {
    /// Starts at `from`. With one connection, or little left, the blob comes as one stream.
    pub fn new(
        remote: Arc<Remote>,
        digest: Digest,
        size: u64,
        from: u64,
        connections: usize,
    ) -> Self {
        let one = connections < 2 || size.saturating_sub(from) < LARGE;
        let plain = one.then(|| BlobStream::new(Arc::clone(&remote), digest.clone(), size, from));
        Self {
            remote,
            digest,
            size,
            at: from,
            left: std::iter::once(from..size).collect(),
            parts: false,
            connections,
            ranges: VecDeque::new(),
            tasks: JoinSet::new(),
            plain,
            broken: None,
        }
    }

    /// Nothing but these parts of it, in order. [`Error::Unsupported`] from a registry that knows
    /// no ranges.
    pub fn of_parts(
        remote: Arc<Remote>,
        digest: Digest,
        size: u64,
        parts: Vec<Range<u64>>,
        connections: usize,
    ) -> Self {
        Self {
            left: parts.into(),
            parts: true,
            plain: None,
            ..Self::new(remote, digest, size, size, connections.max(1))
        }
    }

    /// Why a transfer was taken up again, since this was asked last.
    pub fn broken(&mut self) -> Option<String> {
        let plain = self.plain.as_mut().and_then(BlobStream::broken);
        plain.or_else(|| self.broken.take())
    }

    /// The next piece, or `None` when the blob is whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(plain) = &mut self.plain {
            return plain.next().await;
        }
        loop {
            while self.ranges.len() < self.connections && self.ask() {}
            let Some(first) = self.ranges.front_mut() else {
                return Ok(None);
            };
            match first.recv().await {
                Some(Piece::Bytes(bytes)) => {
                    self.at += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Some(Piece::Retry(why)) => self.broken = Some(why),
                Some(Piece::Failed(Error::Unsupported { .. })) if !self.parts => {
                    return self.give_up().await;
                }
                Some(Piece::Failed(error)) => return Err(error),
                None => drop(self.ranges.pop_front()),
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Asks for the next range; false where there is none.
    fn ask(&mut self) -> bool {
        let Some(next) = self.left.front_mut() else {
            return false;
        };
        let (from, to) = (next.start, next.end.min(next.start + LENGTH));
        next.start = to;
        if next.is_empty() {
            self.left.pop_front();
        }
        if from == to {
            return true;
        }
        let stream = BlobStream::new(
            Arc::clone(&self.remote),
            self.digest.clone(),
            self.size,
            from,
        );
        let mut stream = stream.up_to(to);
        let (pieces, range) = mpsc::unbounded_channel();
        self.ranges.push_back(range);
        self.tasks.spawn(async move {
            loop {
                let piece = stream.next().await;
                if let Some(why) = stream.broken() {
                    let _ = pieces.send(Piece::Retry(why));
                }
                let bytes = match piece {
                    Ok(None) => return,
                    Ok(Some(bytes)) => bytes,
                    Err(error) => {
                        let _ = pieces.send(Piece::Failed(error));
                        return;
                    }
                };
                if pieces.send(Piece::Bytes(bytes)).is_err() {
                    return;
                }
            }
        });
        true
    }

    /// The registry knows no ranges: the rest comes as one stream.
    async fn give_up(&mut self) -> Result<Option<Bytes>> {
        self.tasks.shutdown().await;
        self.ranges.clear();
        let (remote, digest) = (Arc::clone(&self.remote), self.digest.clone());
        let plain = BlobStream::new(remote, digest, self.size, self.at);
        Box::pin(self.plain.insert(plain).next()).await
    }
}
