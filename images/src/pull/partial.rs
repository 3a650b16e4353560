//! The partial pull of a layer with a table of contents (see [`crate::chunked`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use hyper::body::{Buf, Bytes};
use tokio::sync::mpsc;

use super::layer::{Below, LayerTask, PIECES};
use crate::chunked::{Extent, Found, Join, Plan, Rebuild, Toc, plan, plan_blob};
use crate::install::{Installed, install, install_unpacked};
use crate::registry::BlobSource;
use crate::{Error, Layer, Limits, Progress, Result, Store};

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

    /// Pulls what the store lacks of the layer. `None` where it has to be pulled whole: too little
    /// would be saved, or this way failed.
    pub(super) async fn pull_parts(&self, toc: Option<&Toc>, below: &Below) -> Option<bool> {
        let toc = toc?;
        let layer = self.layer();
        let known = self.store.find_extents(toc).ok()?;
        let find = |extent: &Extent| {
            let digest = extent.digest.clone()?;
            known.get(&(digest, extent.size))
        };
        let plan = if self.keep {
            self.plan_blob(toc, find)
        } else {
            plan(toc, |extent| find(extent).cloned())
        };
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

    /// From blobs that are kept.
    fn plan_blob<'f>(&self, toc: &Toc, find: impl Fn(&Extent) -> Option<&'f Found>) -> Plan {
        let blobs = RefCell::new(HashMap::new());
        plan_blob(toc, self.layer().compressed_size, |extent| {
            let (found, wanted) = (find(extent)?, extent.blob.as_ref()?);
            if found.blob.is_empty()
                || found.blob.end - found.blob.start != wanted.end - wanted.start
            {
                return None;
            }
            let mut blobs = blobs.borrow_mut();
            let blob = blobs
                .entry(found.layer.clone())
                .or_insert_with(|| self.store.blob_of(&found.layer));
            Some((blob.clone()?, found.blob.start))
        })
    }

    async fn run_plan(&self, plan: Plan, below: Below) -> Result<Installed> {
        let layer = self.layer().clone();
        let (pieces, source) = mpsc::channel(PIECES);
        let (below_done, below_end) = std::sync::mpsc::channel();
        let (store, layers) = (self.store.clone(), self.layers.clone());
        let (limits, parts, keep) = (self.limits.clone(), plan.parts, self.keep);
        let unpack = tokio::task::spawn_blocking(move || {
            let mut source = source;
            let mut pieces = std::iter::from_fn(move || source.blocking_recv());
            let wait_below = || below_end.recv().unwrap_or(false);
            if keep {
                return install_joined(
                    &store,
                    &layers,
                    &limits,
                    Join::new(parts, &mut pieces),
                    &wait_below,
                );
            }
            let mut archive = Rebuild::new(parts, &mut pieces);
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

/// Installs a blob that is given whole, from its first byte on, and keeps it.
fn install_joined(
    store: &Store,
    layers: &[Layer],
    limits: &Limits,
    mut blob: Join<'_>,
    wait_below: &dyn Fn() -> bool,
) -> Result<Installed> {
    // What an earlier attempt kept is not wanted again.
    let skip = Cell::new(0);
    let mut fetch = |from: u64| skip.set(from);
    let mut pieces = std::iter::from_fn(|| {
        let mut piece: Result<Bytes> = blob.next()?;
        if let Ok(bytes) = &mut piece {
            let gone = skip.get().min(bytes.len() as u64);
            bytes.advance(gone as usize);
            skip.set(skip.get() - gone);
        }
        Some(piece)
    });
    install(
        store,
        layers,
        limits,
        true,
        &mut fetch,
        &mut pieces,
        wait_below,
    )
}
