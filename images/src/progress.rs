//! What a pull or push tells while it runs.

use crate::{Digest, ImageId};

/// A step of a pull or push. Sent from several threads, in order for each layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The manifest is known. `layers` lists compressed sizes in bytes, bottom layer first.
    Resolved {
        /// Digest of the manifest chosen for the platform.
        manifest: Digest,
        /// The image's id.
        id: ImageId,
        /// Digest and compressed size of each layer.
        layers: Vec<(Digest, u64)>,
    },
    /// More of a blob passed the network: how many bytes since the last event.
    Bytes {
        /// The layer as the manifest names it.
        layer: Digest,
        /// Bytes since the last event.
        count: u64,
    },
    /// Bytes of a blob that were not fetched, since the store has what they unpack to.
    Reused {
        /// The layer.
        layer: Digest,
        /// Bytes of the blob.
        count: u64,
    },
    /// A request failed and is tried again.
    Retry {
        /// The layer.
        layer: Digest,
        /// What failed.
        why: String,
    },
    /// The layer is whole: in the store (pull) or in the registry (push).
    Done {
        /// The layer.
        layer: Digest,
        /// True where it was there before.
        existed: bool,
    },
}

/// Takes the steps. It is called on the path of the data: return at once.
pub trait ProgressSink: Send + Sync {
    /// The next step.
    fn progress(&self, step: Progress);
}

/// Tells nobody.
impl ProgressSink for () {
    fn progress(&self, _: Progress) {}
}

impl<F: Fn(Progress) + Send + Sync> ProgressSink for F {
    fn progress(&self, step: Progress) {
        self(step);
    }
}
