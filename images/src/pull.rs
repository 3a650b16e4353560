//! Pull: from a reference to an image of the store.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::body::Bytes;
use tokio::sync::{Semaphore, mpsc};

use crate::install::{Installed, install};
use crate::manifest::{self, Config, Descriptor, Document, Manifest, OCI_MANIFEST};
use crate::registry::{BlobSource, LARGE, Remote};
use crate::store::{Lease, Record};
use crate::trust::Policy;
use crate::{
    Digest, Error, ImageId, Layer, Platform, Progress, ProgressSink, PullOptions, Reference,
    Result, Store,
};

/// Layers fetched at the same time where nothing else is said.
const PARALLEL: usize = 4;
/// Pieces that wait between the network and the unpacker.
const PIECES: usize = 4;

/// What a reference led to.
struct Resolved {
    record: Record,
    manifest: Manifest,
    config: Config,
}

impl Store {
    /// Pulls an image and gives its id. Layers that the store has are not fetched again.
    ///
    /// The image is listed only once it is whole, verified and on the disk. Dropping the
    /// future ends the pull; what came in stays for the next attempt to go on with.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<ImageId> {
        let policy = Policy::load(options.policy.as_deref())?;
        policy.check_name(reference)?;
        let client = Remote::connect(reference, &options.registry).await?;
        let mut lease = Lease::new(self)?;
        let resolved = self
            .resolve(&client, reference, options, &policy, &mut lease)
            .await?;
        let layers = resolved.manifest.layers_with(&resolved.config);
        progress.progress(Progress::Resolved {
            manifest: resolved.record.manifest.clone(),
            id: resolved.record.id.clone(),
            layers: layers
                .iter()
                .map(|l| (l.digest.clone(), l.compressed_size))
                .collect(),
        });
        lease.add(layers.iter().flat_map(|l| [&l.digest, &l.chain_id]))?;
        let pulled = self.pull_layers(&client, &layers, options, &progress).await;
        if let Err(error) = pulled {
            drop(lease);
            return Err(error);
        }
        let id = resolved.record.id.clone();
        self.change(|index| {
            index.add(resolved.record);
            Ok(())
        })?;
        Ok(id)
    }

    /// Fetches the documents of an image and stores them.
    async fn resolve(
        &self,
        client: &Arc<Remote>,
        reference: &Reference,
        options: &PullOptions,
        policy: &Policy,
        lease: &mut Lease,
    ) -> Result<Resolved> {
        let name = reference.to_string();
        let wanted = options.platform.clone().unwrap_or_else(Platform::host);
        let first = client.manifest(reference.identifier()).await?;
        let first_digest = Digest::of(&first);
        let mut bytes = first.clone();
        let mut document = Document::parse(&name, &bytes)?;
        // An index may list indexes; nobody nests them deeper than this.
        for _ in 0..4 {
            let Document::Index(descriptors) = &document else {
                break;
            };
            let chosen = manifest::choose(&name, descriptors, &wanted)?;
            bytes = client.manifest(chosen.digest.as_str()).await?;
            document = Document::parse(&name, &bytes)?;
        }
        let Document::Manifest(manifest) = document else {
            return Err(Error::document(name, "indexes nested too deep"));
        };
        let manifest_digest = Digest::of(&bytes);
        let digests = [first_digest.clone(), manifest_digest.clone()];
        policy.check(reference, &digests, client).await?;
        manifest
            .layers
            .iter()
            .try_for_each(Descriptor::check_layer)?;
        let config_bytes = client
            .document(&manifest.config.digest, manifest.config.size)
            .await?;
        let config = Config::parse(&name, &config_bytes)?;
        manifest.check_against(&name, &config)?;
        check_platform(&name, &config, &wanted, options.platform.is_some())?;
        lease.add([&first_digest, &manifest_digest, &manifest.config.digest])?;
        for bytes in [&first[..], &bytes, &config_bytes] {
            self.put_document(bytes)?;
        }
        let record = Record {
            manifest: manifest_digest,
            media_type: media_type_of(&manifest),
            size: bytes.len() as u64,
            id: manifest.config.digest.clone(),
            tags: reference.tagged().into_iter().collect(),
            repo_digests: BTreeSet::from([reference.with_digest(&first_digest)]),
            pinned: false,
        };
        Ok(Resolved {
            record,
            manifest,
            config,
        })
    }

    /// Fetches and unpacks the layers beside each other, and finishes them bottom first.
    async fn pull_layers(
        &self,
        client: &Arc<Remote>,
        layers: &[Layer],
        options: &PullOptions,
        progress: &Arc<dyn ProgressSink>,
    ) -> Result<()> {
        let parallel = if options.parallel == 0 {
            PARALLEL
        } else {
            options.parallel
        };
        let permits = Arc::new(Semaphore::new(parallel));
        // Connections that no layer uses are shared out among the large ones.
        let missing =
            |l: &&Layer| l.compressed_size >= LARGE && !self.has_blob(&l.digest, l.compressed_size);
        let large = layers.iter().filter(missing).count();
        let connections = parallel / large.max(1);
        let mut tasks = tokio::task::JoinSet::new();
        let mut done: Option<tokio::sync::oneshot::Receiver<()>> = None;
        for (i, layer) in layers.iter().enumerate() {
            let (finished, next) = tokio::sync::oneshot::channel();
            let below = done.replace(next);
            let task = LayerTask {
                store: self.clone(),
                client: Arc::clone(client),
                layers: layers[..=i].to_vec(),
                limits: options.limits.clone(),
                keep: !options.discard_blobs,
                permits: Arc::clone(&permits),
                connections,
                progress: Arc::clone(progress),
            };
            let layer = layer.digest.clone();
            tasks.spawn(async move {
                let existed = task.run(below).await?;
                // Nobody listens above the topmost layer.
                let _ = finished.send(());
                task.progress.progress(Progress::Done { layer, existed });
                Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tasks.shutdown().await;
                    return Err(error);
                }
                Err(error) => return Err(Error::Worker(format!("a layer's task: {error}"))),
            }
        }
        Ok(())
    }
}

/// Some registries serve one manifest for all: what it holds decides then.
fn check_platform(name: &str, config: &Config, wanted: &Platform, explicit: bool) -> Result<()> {
    let offered = &config.platform;
    if !explicit || offered.architecture.is_empty() || wanted.score(offered).is_some() {
        return Ok(());
    }
    Err(Error::NoPlatform {
        image: name.to_owned(),
        wanted: wanted.to_string(),
        available: offered.to_string(),
    })
}

fn media_type_of(manifest: &Manifest) -> String {
    if manifest.media_type.is_empty() {
        OCI_MANIFEST.to_owned()
    } else {
        manifest.media_type.clone()
    }
}

/// One layer's way into the store.
struct LayerTask {
    store: Store,
    client: Arc<Remote>,
    /// The layer is the last; those before it lie below.
    layers: Vec<Layer>,
    limits: crate::Limits,
    keep: bool,
    permits: Arc<Semaphore>,
    /// Connections for this layer, if it is large.
    connections: usize,
    progress: Arc<dyn ProgressSink>,
}

impl LayerTask {
    /// Returns true where the layer was there before.
    async fn run(&self, below: Option<tokio::sync::oneshot::Receiver<()>>) -> Result<bool> {
        let below = async move {
            match below {
                Some(below) => below.await.is_ok(),
                None => true,
            }
        };
        let below = below.boxed().shared();
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
                    layer: self
                        .layers
                        .last()
                        .expect("a task has a layer")
                        .digest
                        .clone(),
                    why: format!("what was kept is no good: {error}"),
                });
                self.attempt(below, &mut from).await
            }
            other => other,
        }
    }

    /// `began` becomes the first byte that was fetched.
    async fn attempt(
        &self,
        below: Shared<BoxFuture<'static, bool>>,
        began: &mut u64,
    ) -> Result<bool> {
        let layer = self.layers.last().expect("a task has a layer").clone();
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
        let mut stream = BlobSource::new(client, digest.clone(), size, from, self.connections);
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
