//! Push: from an image of the store to a registry.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::registry::{Client, Remote};
use crate::{
    Digest, Error, Progress, ProgressSink, Reference, RegistryOptions, Result, Store, tasks,
};

/// Blobs sent at the same time.
const PARALLEL: usize = 4;

impl Store {
    /// Pushes an image under a name with a tag and gives the manifest's digest. Blobs that the
    /// registry has are not sent again.
    pub async fn push(
        &self,
        image: &str,
        target: &Reference,
        options: &RegistryOptions,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<Digest> {
        let record = self.record(image)?;
        let (manifest, config) = self.manifest_of(&record)?;
        let layers = manifest.layers_with(&config);
        for layer in &layers {
            if !self.has_blob(&layer.digest, layer.compressed_size) {
                let what = format!("layer {} of {image}", layer.digest);
                let why = "it is kept unpacked only: pull the image again with its blobs";
                return Err(Error::document(what, why));
            }
        }
        progress.progress(Progress::Resolved {
            manifest: record.manifest.clone(),
            id: record.id.clone(),
            layers: layers
                .iter()
                .map(|l| (l.digest.clone(), l.compressed_size))
                .collect(),
        });
        let remote = Remote::connect(target, options).await?;
        let client = remote.for_push()?;
        let mut blobs: Vec<Digest> = layers.into_iter().map(|layer| layer.digest).collect();
        blobs.push(record.id.clone());
        blobs.sort();
        blobs.dedup();
        self.push_blobs(client, blobs, &record, target, &progress)
            .await?;
        let bytes = self.document(&record.manifest)?;
        client
            .push_manifest(target.identifier(), &record.media_type, &bytes)
            .await?;
        let name = target.with_digest(&record.manifest);
        self.change(|index| {
            let known = index
                .records
                .iter_mut()
                .find(|r| r.manifest == record.manifest);
            known.map(|known| known.repo_digests.insert(name));
            Ok(())
        })?;
        Ok(record.manifest)
    }

    async fn push_blobs(
        &self,
        client: &Arc<Client>,
        blobs: Vec<Digest>,
        record: &crate::store::Record,
        target: &Reference,
        progress: &Arc<dyn ProgressSink>,
    ) -> Result<()> {
        let from = mount_source(record, target);
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let mut tasks = tokio::task::JoinSet::new();
        for digest in blobs {
            let (client, permits) = (Arc::clone(client), Arc::clone(&permits));
            let (path, from) = (self.blob_path(&digest), from.clone());
            let (progress, sessions) = (Arc::clone(progress), self.ingest_dir());
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                let (sink, layer) = (Arc::clone(&progress), digest.clone());
                let on_bytes = Arc::new(move |count| {
                    sink.progress(Progress::Bytes {
                        layer: layer.clone(),
                        count,
                    });
                });
                let existed = client
                    .push_blob(&digest, &path, from.as_deref(), &sessions, on_bytes)
                    .await?;
                progress.progress(Progress::Done {
                    layer: digest,
                    existed,
                });
                Ok(())
            });
        }
        tasks::all_of(tasks, "an upload's task").await
    }
}

/// Another repository of the same registry that has the image's blobs.
fn mount_source(record: &crate::store::Record, target: &Reference) -> Option<String> {
    let known = record
        .repo_digests
        .iter()
        .filter_map(|name| name.parse::<Reference>().ok());
    known
        .filter(|known| known.registry() == target.registry())
        .map(|known| known.repository().to_owned())
        .find(|repository| repository != target.repository())
}
