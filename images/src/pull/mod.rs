//! Pull: from a reference to an image of the store.

mod layer;
mod partial;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;

use layer::LayerTask;

use crate::chunked::Place;
use crate::manifest::{self, Config, Descriptor, Document, Manifest, OCI_MANIFEST};
use crate::registry::{LARGE, Remote};
use crate::store::{Lease, Record};
use crate::trust::Policy;
use crate::{
    Digest, Error, ImageId, Layer, Platform, Progress, ProgressSink, PullOptions, Reference,
    Result, Store, tasks,
};

/// Layers fetched at the same time where nothing else is said.
const PARALLEL: usize = 4;

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
        let tables: Vec<Option<Place>> = resolved
            .manifest
            .layers
            .iter()
            .map(|layer| layer.table.as_deref().cloned())
            .collect();
        let pulled = self.pull_layers(&client, &layers, &tables, options, &progress);
        if let Err(error) = pulled.await {
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
            manifest: *manifest,
            config,
        })
    }

    /// Fetches and unpacks the layers beside each other, and finishes them bottom first.
    async fn pull_layers(
        &self,
        client: &Arc<Remote>,
        layers: &[Layer],
        tables: &[Option<Place>],
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
                table: tables[i].clone(),
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
        tasks::all_of(tasks, "a layer's task").await
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
