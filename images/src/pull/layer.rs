//! One layer's way into the store.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::body::Bytes;
use tokio::sync::{Semaphore, mpsc};

use crate::chunked::Place;
use crate::install::{Installed, install};
use crate::registry::{BlobSource, Remote};
use crate::{Error, Layer, Progress, ProgressSink, Result, Store};

/// Pieces that wait between the network and the unpacker.
pub(super) const PIECES: usize = 4;

/// Whether the layer below was finished, once that is known.
pub(super) type Below = Shared<BoxFuture<'static, bool>>;

/// One layer's way into the store.
pub(super) struct LayerTask {
    pub store: Store,
    pub client: Arc<Remote>,
    /// The layer is the last; those before it lie below.
    pub layers: Vec<Layer>,
    /// Where its table of contents is, if it has one.
    pub table: Option<Place>,
    pub limits: crate::Limits,
    pub keep: bool,
    pub permits: Arc<Semaphore>,
    /// Connections for this layer, if it is large.
    pub connections: usize,
    pub progress: Arc<dyn ProgressSink>,
}

impl LayerTask {
    /// Returns true where the layer was there before.
    pub async fn run(&self, below: Option<tokio::sync::oneshot::Receiver<()>>) -> Result<bool> {
        let below = async move {
            match below {
                Some(below) => below.await.is_ok(),
                None => true,
            }
        };
        let below = below.boxed().shared();
        let toc = self.read_table().await;
        let existed = match self.pull_parts(toc.as_ref(), &below).await {
            Some(existed) => existed,
            None => self.pull_whole(below).await?,
        };
        if let Some(toc) = toc
            && let Err(error) = self.store.note_extents(&self.layer().chain_id, &toc)
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "extents not noted"
            );
        }
        Ok(existed)
    }

    /// The layer itself; what lies below comes before it.
    pub(super) fn layer(&self) -> &Layer {
        self.layers.last().expect("a task has a layer")
    }

    async fn pull_whole(&self, below: Below) -> Result<bool> {
        let mut from = 0;
        match self.attempt(below.clone(), &mut from).await {
            // What an earlier attempt kept may be bad, after a power cut that took its end: it is
            // gone now, and all is fetched once more.
            Err(
                error @ (Error::DigestMismatch { .. }
                | Error::SizeMismatch { .. }
                | Error::Layer { .. }),
            ) if from > 0 => {
                self.progress.progress(Progress::Retry {
                    layer: self.layer().digest.clone(),
                    why: format!("what was kept is no good: {error}"),
                });
                self.attempt(below, &mut from).await
            }
            other => other,
        }
    }

    /// `began` becomes the first byte that was fetched.
    async fn attempt(&self, below: Below, began: &mut u64) -> Result<bool> {
        let layer = self.layer().clone();
        let (pieces, source) = mpsc::channel::<Result<Bytes>>(PIECES);
        let (start, started) = tokio::sync::oneshot::channel::<u64>();
        let (below_done, below_end) = std::sync::mpsc::channel();
        let (store, layers, limits, keep) = (
            self.store.clone(),
            self.layers.clone(),
            self.limits.clone(),
            self.keep,
        );
        let unpack = tokio::task::spawn_blocking(move || {
            let mut start = Some(start);
            let mut source = source;
            let mut fetch = |from: u64| {
                start.take().map(|start| start.send(from));
            };
            let mut pieces = std::iter::from_fn(move || source.blocking_recv());
            let wait_below = || below_end.recv().unwrap_or(false);
            install(
                &store,
                &layers,
                &limits,
                keep,
                &mut fetch,
                &mut pieces,
                &wait_below,
            )
        });
        let fetch = async {
            // Nothing is fetched where the store has the layer, or it is being made meanwhile.
            let Ok(from) = started.await else { return };
            *began = from;
            let _permit = self.permits.acquire().await;
            self.fetch(&layer, from, pieces).await;
        };
        let wait = async {
            let ready = below.await;
            let _ = below_done.send(ready);
        };
        let (unpacked, (), ()) = tokio::join!(unpack, fetch, wait);
        let installed =
            unpacked.map_err(|error| Error::Worker(format!("the unpacker: {error}")))??;
        Ok(installed == Installed::Existed)
    }

    /// Sends the layer's bytes from `from` on, or the error that ended them.
    async fn fetch(&self, layer: &Layer, from: u64, pieces: mpsc::Sender<Result<Bytes>>) {
        let (digest, size) = (layer.digest.clone(), layer.compressed_size);
        let client = Arc::clone(&self.client);
        let stream = BlobSource::new(client, digest, size, from, self.connections);
        self.send(layer, from, stream, pieces).await;
    }

    /// Sends what a source gives; `from` bytes are there already.
    pub(super) async fn send(
        &self,
        layer: &Layer,
        from: u64,
        mut stream: BlobSource,
        pieces: mpsc::Sender<Result<Bytes>>,
    ) {
        let digest = layer.digest.clone();
        let told = |count| Progress::Bytes {
            layer: digest.clone(),
            count,
        };
        if from > 0 {
            self.progress.progress(told(from));
        }
        loop {
            let piece = stream.next().await;
            if let Some(why) = stream.broken() {
                self.progress.progress(Progress::Retry {
                    layer: digest.clone(),
                    why,
                });
            }
            match piece {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    self.progress.progress(told(bytes.len() as u64));
                    if pieces.send(Ok(bytes)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = pieces.send(Err(error)).await;
                    return;
                }
            }
        }
    }
}
