//! Checkpoints of containers: the archive that CheckpointContainer writes, and a container that is
//! created from one.
//!
//! The archive is a tar of the form that the peers write:
//!
//! | entry | what |
//! |---|---|
//! | `config.dump` | which image and container it was |
//! | `spec.dump` | its config.json |
//! | `checkpoint/…` | CRIU's files |
//! | `rootfs-diff.tar` | what it wrote on its root file system |
//! | `container.log` | its log |

mod archive;
mod image;
mod restore;
mod save;

use serde::{Deserialize, Serialize};

pub use archive::is_archive;
pub use image::is_checkpoint;
pub use restore::{base, base_of_image, unpack};
pub use save::save;

/// Directory of CRIU's files, in the archive and in a container's directory.
pub const IMAGES: &str = "checkpoint";
const ABOUT: &str = "config.dump";
const SPEC: &str = "spec.dump";
const CHANGES: &str = "rootfs-diff.tar";
const LOG: &str = "container.log";

/// `config.dump`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct About {
    /// Of the container.
    pub id: String,
    /// Of the container, in its pod.
    pub name: String,
    /// As the pod names it.
    pub rootfs_image: String,
    /// `repository@digest`, or the id.
    pub rootfs_image_ref: String,
    /// As `rootfs_image`.
    pub rootfs_image_name: String,
    /// The OCI runtime.
    pub runtime: String,
    /// RFC 3339.
    pub created_time: String,
    /// RFC 3339.
    pub checkpointed_time: String,
}
