//! Pull: from a reference to an image of the store.

use std::sync::Arc;

use crate::{Error, ImageId, ProgressSink, PullOptions, Reference, Result, Store};

impl Store {
    /// Pulls an image and gives its id. Layers that the store has are not fetched again.
    ///
    /// The image is listed only once it is whole, verified and on the disk. Dropping the
    /// future ends the pull; what came in stays for the next attempt to go on with.
    pub async fn pull(
        &self,
        reference: &Reference,
        _options: &PullOptions,
        _progress: Arc<dyn ProgressSink>,
    ) -> Result<ImageId> {
        Err(Error::unsupported(
            format!("pull of {reference}"),
            "it is being written",
        ))
    }
}
