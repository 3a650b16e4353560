//! What a pull and a push meet, one file for each kind of it: registries that break, lie, throttle,
//! redirect and ask for tokens.
#![allow(clippy::unwrap_used)]

#[path = "../kit/mod.rs"]
mod kit;

mod auth;
mod documents;
mod lists;
mod partial;
mod places;
mod push;
mod ranges;
mod refusals;
mod specification;
mod transfer;

use std::sync::{Arc, Mutex};

use kit::{Blob, Tar, gzip, plain};
use rrun_images::{
    Credentials, ImageId, Progress, PullOptions, Reference, RegistryOptions, Result, Store,
};

fn image() -> Vec<Blob> {
    let noise: String = (0..200_000u32)
        .map(|i| char::from(b' ' + (i.wrapping_mul(2_654_435_761) >> 26) as u8))
        .collect();
    let base = Tar::default().dir("./", 0o755).file("noise", &noise).end();
    vec![gzip(&base), plain(Tar::default().file("top", "1").end())]
}

struct Client {
    _dir: tempfile::TempDir,
    store: Store,
    options: PullOptions,
    retries: Arc<Mutex<Vec<String>>>,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let registry = RegistryOptions {
            credentials: Credentials::Anonymous,
            ..Default::default()
        };
        let options = PullOptions {
            registry,
            ..Default::default()
        };
        Self {
            _dir: dir,
            store,
            options,
            retries: Arc::default(),
        }
    }

    fn pull(&self, name: &str) -> Result<ImageId> {
        let retries = Arc::clone(&self.retries);
        let sink = Arc::new(move |step: Progress| {
            if let Progress::Retry { why, .. } = step {
                retries.lock().unwrap().push(why);
            }
        });
        let reference: Reference = name.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.store.pull(&reference, &self.options, sink))
    }

    /// The image is there, whole.
    fn has(&self, name: &str) {
        let image = self.store.inspect(name).unwrap();
        assert_eq!(
            self.store
                .read_file(&image, "noise", 1 << 20)
                .unwrap()
                .unwrap()
                .len(),
            200_000
        );
        assert_eq!(
            self.store.read_file(&image, "top", 10).unwrap().unwrap(),
            b"1"
        );
    }

    fn has_nothing(&self) {
        assert!(self.store.list().unwrap().is_empty());
        self.store.prune(true).unwrap();
        for dir in ["blobs/sha256", "layers", "ingest"] {
            let left = std::fs::read_dir(self.store.root().join(dir))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{dir}");
        }
    }
}
