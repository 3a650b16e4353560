//! Images in and out of files: OCI layout, OCI archive, docker-archive.

mod load;
mod save;
mod source;

pub use save::{Format, SaveTarget};
