//! Layers with a table of contents: only what the store lacks is fetched, and nothing is taken on
//! trust.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rrun_images::{Digest, Progress};
use rrun_tests::{Need, noise, require};

use crate::Client;
use crate::kit::Blob;
use crate::kit::chunked::{File, estargz, zstd_chunked};
use crate::kit::double::{Content, Double, Reply, Request};

/// Two images of one layer at a registry.
struct Versions {
    double: Double,
    client: Client,
    /// Bytes of the second one's layer that went out.
    sent: Arc<AtomicUsize>,
    reused: Arc<Mutex<Vec<u64>>>,
}

impl Versions {
    fn new(
        old: &Blob,
        new: &Blob,
        fault: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let one = Content::new(std::slice::from_ref(old));
        let two = Content::new(std::slice::from_ref(new));
        let layer = two.layers[0].to_string();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let double = Double::start(move |request| {
            let content = if request.path.starts_with("/v2/one/") {
                &one
            } else {
                &two
            };
            let reply = fault(request, content.answer(request));
            if request.path.ends_with(&layer) {
                count.fetch_add(reply.body.len(), Ordering::SeqCst);
            }
            reply
        });
        let mut client = Client::new();
        client.options.discard_blobs = true;
        Self {
            double,
            client,
            sent,
            reused: Arc::default(),
        }
    }

    fn pull(&self, repository: &str) {
        let name = format!("{}/{repository}:1", self.double.host);
        let reused = Arc::clone(&self.reused);
        let retries = Arc::clone(&self.client.retries);
        let sink = Arc::new(move |step: Progress| match step {
            Progress::Reused { count, .. } => reused.lock().unwrap().push(count),
            Progress::Retry { why, .. } => retries.lock().unwrap().push(why),
            _ => {}
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (store, options) = (&self.client.store, &self.client.options);
        runtime
            .block_on(store.pull(&name.parse().unwrap(), options, sink))
            .unwrap();
    }

    fn read(&self, file: &str) -> Vec<u8> {
        let store = &self.client.store;
        let image = store
            .inspect(&format!("{}/two:1", self.double.host))
            .unwrap();
        store.read_file(&image, file, 32 << 20).unwrap().unwrap()
    }

    fn reused(&self) -> u64 {
        self.reused.lock().unwrap().iter().sum()
    }
}

#[test]
fn files_that_the_store_has_are_not_fetched_again() {
    require!(Need::Root);
    let (same, old, new, small) = (
        noise(1, 900_000),
        noise(2, 70_000),
        noise(3, 80_000),
        noise(4, 9000),
    );
    let zeros = vec![0; 100_000];
    let parted = File {
        cuts: &[300_000, 600_000],
        ..File::new("opt/moved", &same)
    };
    let versions = Versions::new(
        &zstd_chunked(&[
            File::new("usr/same", &same[300_000..600_000]),
            File::new("a", &old),
        ]),
        &zstd_chunked(&[
            File::new("b", &small),
            parted,
            File::new("a", &new),
            File::new("z", &zeros),
        ]),
        |_, reply| reply,
    );
    versions.pull("one");
    assert_eq!(versions.reused(), 0);
    versions.pull("two");
    assert_eq!(versions.read("opt/moved"), same);
    assert_eq!((versions.read("a"), versions.read("z")), (new, zeros));
    assert!(versions.reused() > 300_000, "{}", versions.reused());
    let sent = versions.sent.load(Ordering::SeqCst);
    assert!((690_000..700_000).contains(&sent), "{sent} bytes were sent");
    assert!(versions.client.store.check().unwrap().problems.is_empty());
    assert!(versions.client.retries.lock().unwrap().is_empty());
}

#[test]
fn whole_chunks_of_estargz_are_not_fetched_again() {
    require!(Need::Root);
    let (same, end) = (noise(1, 500_000), noise(2, 90_000));
    let other = [&same[..], &end].concat();
    let file = |data| File {
        cuts: &[200_000, 400_000],
        ..File::new("big", data)
    };
    let versions = Versions::new(
        &estargz(&[file(&same)]),
        &estargz(&[File::new("a", b"1"), file(&other), File::new("b", b"2")]),
        |_, reply| reply,
    );
    versions.pull("one");
    versions.pull("two");
    assert_eq!(versions.read("big"), other);
    assert_eq!(versions.read("b"), b"2");
    assert!(versions.reused() > 399_000, "{}", versions.reused());
    assert!(versions.sent.load(Ordering::SeqCst) < 250_000);
}

#[test]
fn a_layer_is_pulled_whole_where_its_parts_cannot_be_had() {
    require!(Need::Root);
    let (same, new) = (noise(1, 400_000), noise(2, 50_000));
    let faults: [fn(&Request, Reply) -> Reply; 3] = [
        // Knows no ranges.
        |_, reply| {
            if reply.status == 206 {
                Reply::new(416, "")
            } else {
                reply
            }
        },
        // Gives the table, and other bytes for the parts.
        |request, mut reply| {
            let first = request
                .headers
                .get("range")
                .is_some_and(|r| r.starts_with("bytes=0-"));
            if first {
                reply.body.fill(7);
            }
            reply
        },
        // Damages the table.
        |request, mut reply| {
            let later = request
                .headers
                .get("range")
                .is_some_and(|r| !r.starts_with("bytes=0-"));
            if later {
                reply.body[0] ^= 1;
            }
            reply
        },
    ];
    for fault in faults {
        let versions = Versions::new(
            &zstd_chunked(&[File::new("same", &same)]),
            &zstd_chunked(&[File::new("new", &new), File::new("same", &same)]),
            fault,
        );
        versions.pull("one");
        versions.pull("two");
        assert_eq!(
            (versions.read("same"), versions.read("new")),
            (same.clone(), new.clone())
        );
        assert_eq!(versions.reused(), 0);
    }
}

/// The first image's table says that its file is the second's: nobody gets the one for the other.
#[test]
fn a_table_that_lies_does_not_poison_the_store() {
    require!(Need::Root);
    let (bad, good) = (noise(1, 400_000), noise(2, 400_000));
    let lie = File {
        lie: Some(Digest::of(&good)),
        ..File::new("f", &bad)
    };
    let versions = Versions::new(
        &zstd_chunked(&[lie]),
        &zstd_chunked(&[File::new("f", &good)]),
        |_, reply| reply,
    );
    versions.pull("one");
    versions.pull("two");
    assert_eq!(versions.read("f"), good);
    assert_eq!(versions.reused(), 0);
    assert!(versions.client.retries.lock().unwrap()[0].contains("pulled whole"));
    assert!(versions.client.store.check().unwrap().problems.is_empty());
}

/// Two versions whose blobs are kept, with one large file in common.
fn kept() -> (Vec<u8>, Versions) {
    let (same, tail) = (noise(1, 400_000), noise(2, 3000));
    let mut versions = Versions::new(
        &zstd_chunked(&[File::new("same", &same)]),
        &zstd_chunked(&[
            File::new("a", b"1"),
            File::new("moved", &same),
            File::new("z", &tail),
        ]),
        |_, reply| reply,
    );
    versions.client.options.discard_blobs = false;
    (same, versions)
}

/// The second layer's blob, as the store keeps it.
fn kept_blob(versions: &Versions, repository: &str) -> std::path::PathBuf {
    let store = &versions.client.store;
    let image = store.inspect(&format!("{}/{repository}:1", versions.double.host));
    let digest = image.unwrap().layers[0].digest.clone();
    store.root().join("blobs/sha256").join(digest.hex())
}

#[test]
fn blobs_that_are_kept_are_put_together_from_kept_ones() {
    require!(Need::Root);
    let (same, versions) = kept();
    versions.pull("one");
    assert_eq!(versions.reused(), 0);
    versions.pull("two");
    assert_eq!(versions.read("moved"), same);
    assert!(versions.reused() > 390_000, "{}", versions.reused());
    assert!(versions.sent.load(Ordering::SeqCst) < 20_000);
    assert!(kept_blob(&versions, "two").exists());
    assert!(versions.client.retries.lock().unwrap().is_empty());
    assert!(versions.client.store.check().unwrap().problems.is_empty());
}

#[test]
fn a_kept_blob_that_is_damaged_poisons_no_other() {
    require!(Need::Root);
    let (same, versions) = kept();
    versions.pull("one");
    let blob = kept_blob(&versions, "one");
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    versions.pull("two");
    assert_eq!((versions.read("moved"), versions.reused()), (same, 0));
    assert!(versions.client.retries.lock().unwrap()[0].contains("pulled whole"));
    let problems = versions.client.store.check().unwrap().problems;
    assert_eq!(problems.len(), 1, "the damaged one alone: {problems:?}");
}

#[test]
fn blobs_that_are_to_be_kept_are_fetched_whole_where_no_other_is() {
    require!(Need::Root);
    let (same, mut versions) = kept();
    versions.client.options.discard_blobs = true;
    versions.pull("one");
    versions.client.options.discard_blobs = false;
    versions.pull("two");
    assert_eq!((versions.read("moved"), versions.reused()), (same, 0));
    assert!(versions.sent.load(Ordering::SeqCst) > 400_000);
}
