//! Pulls that are under way, for whoever asks: `Status` and `ImageStatus` (verbose), the metrics, and
//! `rrun-cri pulls`. CRI itself has no field for progress.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rrun_images::{Digest, Progress};
use serde::{Deserialize, Serialize};

use crate::id;

/// Every pull of the daemon.
#[derive(Default)]
pub struct Pulls {
    active: Mutex<BTreeMap<u64, Arc<Pull>>>,
    next: AtomicU64,
    bytes: AtomicU64,
}

impl Pulls {
    /// A pull begins. It is over when the answer is dropped.
    pub fn begin(self: &Arc<Self>, image: &str) -> Active {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let pull = Arc::new(Pull {
            image: image.to_owned(),
            started_at: id::now(),
            state: Mutex::default(),
        });
        lock(&self.active).insert(number, pull.clone());
        Active {
            pulls: self.clone(),
            pull,
            number,
        }
    }

    /// What is under way, the oldest first.
    pub fn list(&self) -> Vec<Report> {
        lock(&self.active).values().map(|p| p.report()).collect()
    }

    /// The pull of an image as it was asked for.
    pub fn of(&self, image: &str) -> Option<Report> {
        let active = lock(&self.active);
        let found = active.values().find(|pull| pull.image == image);
        found.map(|pull| pull.report())
    }

    /// Bytes that came from registries since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A pull that is under way.
pub struct Active {
    pulls: Arc<Pulls>,
    pull: Arc<Pull>,
    number: u64,
}

impl Active {
    /// What takes the steps of the image library.
    pub fn sink(&self) -> impl Fn(Progress) + Send + Sync + 'static {
        let (pulls, pull) = (self.pulls.clone(), self.pull.clone());
        move |step| {
            if let Progress::Bytes { count, .. } = &step {
                pulls.bytes.fetch_add(*count, Ordering::Relaxed);
            }
            pull.take(step);
        }
    }

    /// How far it is.
    pub fn report(&self) -> Report {
        self.pull.report()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        lock(&self.pulls.active).remove(&self.number);
    }
}

struct Pull {
    image: String,
    started_at: i64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    manifest: String,
    /// Bottom layer first.
    layers: Vec<(Digest, Layer)>,
    retries: u64,
    last_error: String,
}

impl Pull {
    fn take(&self, step: Progress) {
        let mut state = lock(&self.state);
        match step {
            Progress::Resolved {
                manifest, layers, ..
            } => {
                state.manifest = manifest.to_string();
                state.layers = layers.into_iter().map(Layer::new).collect();
            }
            Progress::Bytes { layer, count } | Progress::Reused { layer, count } => {
                state.each(&layer, |layer| {
                    layer.bytes += count;
                    layer.state = LayerState::Pulling;
                });
            }
            Progress::Done { layer, existed } => state.each(&layer, |layer| {
                layer.state = if existed {
                    LayerState::Existed
                } else {
                    LayerState::Done
                };
                layer.bytes = layer.size;
            }),
            Progress::Retry { why, .. } => {
                state.retries += 1;
                state.last_error = why;
            }
            _ => {}
        }
    }

    fn report(&self) -> Report {
        let state = lock(&self.state);
        let layers: Vec<Layer> = state.layers.iter().map(|(_, l)| l.clone()).collect();
        Report {
            image: self.image.clone(),
            started_at: self.started_at,
            manifest: state.manifest.clone(),
            // A blob that began anew was counted twice.
            bytes: layers.iter().map(|l| l.bytes.min(l.size)).sum(),
            size: layers.iter().map(|l| l.size).sum(),
            layers,
            retries: state.retries,
            last_error: state.last_error.clone(),
        }
    }
}

impl State {
    /// Two layers of an image may be the same blob.
    fn each(&mut self, digest: &Digest, change: impl Fn(&mut Layer)) {
        let same = self.layers.iter_mut().filter(|(known, _)| known == digest);
        same.for_each(|(_, layer)| change(layer));
    }
}

/// A pull, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// As it was asked for.
    pub image: String,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// Its digest; empty until the registry has told it.
    pub manifest: String,
    /// Bytes of blobs that are here.
    pub bytes: u64,
    /// Bytes of all blobs; 0 until they are known.
    pub size: u64,
    /// Bottom layer first.
    pub layers: Vec<Layer>,
    /// Requests that failed and were tried again.
    pub retries: u64,
    /// Why the last of them did.
    pub last_error: String,
}

impl Report {
    /// Layers that are whole.
    pub fn done(&self) -> usize {
        let whole = [LayerState::Done, LayerState::Existed];
        self.layers
            .iter()
            .filter(|l| whole.contains(&l.state))
            .count()
    }
}

/// A layer of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Of the blob.
    pub digest: String,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes that are here.
    pub bytes: u64,
    /// How far it is.
    pub state: LayerState,
}

impl Layer {
    fn new((digest, size): (Digest, u64)) -> (Digest, Self) {
        let layer = Self {
            digest: digest.to_string(),
            size,
            bytes: 0,
            state: LayerState::Waiting,
        };
        (digest, layer)
    }
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// Nothing came yet.
    Waiting,
    /// It comes.
    Pulling,
    /// It is unpacked.
    Done,
    /// It was here before.
    Existed,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_of_until_it_ends() {
        let pulls = Arc::new(Pulls::default());
        let digest = |byte: char| -> Digest {
            format!("sha256:{}", byte.to_string().repeat(64))
                .parse()
                .unwrap()
        };
        let (a, b) = (digest('a'), digest('b'));
        let active = pulls.begin("r.example/x:1");
        let step = active.sink();
        assert_eq!(pulls.of("r.example/x:1").unwrap().size, 0);
        step(Progress::Resolved {
            manifest: digest('c'),
            id: digest('d'),
            layers: vec![(a.clone(), 100), (b.clone(), 50), (a.clone(), 100)],
        });
        step(Progress::Bytes {
            layer: b.clone(),
            count: 20,
        });
        step(Progress::Retry {
            layer: b,
            why: "broken off".into(),
        });
        step(Progress::Done {
            layer: a,
            existed: true,
        });
        let report = &pulls.list()[0];
        assert_eq!((report.bytes, report.size, report.done()), (220, 250, 2));
        assert_eq!(
            (report.retries, report.last_error.as_str()),
            (1, "broken off")
        );
        assert_eq!(report.layers[1].state, LayerState::Pulling);
        assert_eq!(pulls.bytes(), 20);
        drop((step, active));
        assert!(pulls.list().is_empty());
    }
}
