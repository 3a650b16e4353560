//! The partial pull of a layer with a table of contents (see [`crate::chunked`]).

use std::sync::Arc;

use tokio::sync::mpsc;

use super::layer::{Below, LayerTask, PIECES};
use crate::chunked::{Plan, Rebuild, Toc, plan};
use crate::install::{Installed, install_unpacked};
use crate::registry::BlobSource;
use crate::{Error, Progress, Result, Store};

/// A smaller part of the blob than one in this many is not worth the requests.
const LEAST_PART: u64 = 20;

impl LayerTask {
    /// The table of contents; `None` where there is none, or none that can be used.
    pub(super) async fn read_table(&self) -> Option<Toc> {
        let place = self.table.as_ref()?;
        let layer = self.layer();
        if self.store.has_layer(&layer.chain_id) {
            return None;
        }
        let _permit = self.permits.acquire().await;
        let read = place.read(&self.client, layer).await;
        let told = |error: &Error| {
            let error = error as &dyn std::error::Error;
            tracing::debug!(error, "the layer is pulled whole");
        };
        read.inspect_err(told).ok()
    }

    /// Pulls what the store lacks of the layer. `None` where it has to be pulled whole: its blob
    /// is to be kept, too little would be saved, or this way failed.
    pub(super) async fn pull_parts(&self, toc: Option<&Toc>, below: &Below) -> Option<bool> {
        let toc = toc.filter(|_| !self.keep)?;
        let layer = self.layer();
        let known = self.store.find_extents(toc).ok()?;
        let plan = plan(toc, |extent| {
            let digest = extent.digest.clone()?;
            known.get(&(digest, extent.size)).cloned()
        });
        if plan.skipped < layer.compressed_size / LEAST_PART {
            return None;
        }
        let skipped = plan.skipped;
        match self.run_plan(plan, below.clone()).await {
            Ok(installed) => {
                self.progress.progress(Progress::Reused {
                    layer: layer.digest.clone(),
                    count: skipped,
                });
                Some(installed == Installed::Existed)
            }
            Err(error) => {
                // What a layer is said to hold is not what it holds: nobody is to try again.
                if matches!(error, Error::DigestMismatch { .. }) {
                    for found in known.values() {
                        let _ = Store::forget_extents(&found.layer);
                    }
                }
                self.progress.progress(Progress::Retry {
                    layer: layer.digest.clone(),
                    why: format!("the layer is pulled whole: {error}"),
                });
                None
            }
        }
    }

    async fn run_plan(&self, plan: Plan, below: Below) -> Result<Installed> {
        let layer = self.layer().clone();
        let (pieces, source) = mpsc::channel(PIECES);
        let (below_done, below_end) = std::sync::mpsc::channel();
        let (store, layers) = (self.store.clone(), self.layers.clone());
        let (limits, parts) = (self.limits.clone(), plan.parts);
        let unpack = tokio::task::spawn_blocking(move || {
            let mut source = source;
            let mut pieces = std::iter::from_fn(move || source.blocking_recv());
            let mut archive = Rebuild::new(parts, &mut pieces);
            let wait_below = || below_end.recv().unwrap_or(false);
            install_unpacked(&store, &layers, &limits, &mut archive, &wait_below)
        });
        let (client, digest) = (Arc::clone(&self.client), layer.digest.clone());
        let size = layer.compressed_size;
        let stream = BlobSource::of_parts(client, digest, size, plan.ranges, self.connections);
        let fetch = async {
            let _permit = self.permits.acquire().await;
            self.send(&layer, 0, stream, pieces).await;
        };
        let wait = async {
            let ready = below.await;
            let _ = below_done.send(ready);
        };
        let (unpacked, (), ()) = tokio::join!(unpack, fetch, wait);
        unpacked.map_err(|error| Error::Worker(format!("the unpacker: {error}")))?
    }
}
