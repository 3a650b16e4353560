//! Images: pull, unpack, store, push.
//!
//! [`Store`] is the way in: [`Store::open`], [`Store::pull`], [`Store::list`],
//! [`Store::rootfs`]. It speaks image-spec 1.1 and distribution-spec 1.1.
#![forbid(unsafe_code)]

mod digest;
mod error;
mod files;
mod image;
mod manifest;
mod options;
mod platform;
mod progress;
mod pull;
mod reference;
mod store;
mod unpack;

pub use digest::{Digest, Hasher, ImageId, digest_reader};
pub use error::{Error, Result};
pub use image::{History, Image, ImageConfig, Layer, Removed, Usage};
pub use options::{Credentials, PullOptions, RegistryOptions};
pub use platform::Platform;
pub use progress::{Progress, ProgressSink};
pub use reference::Reference;
pub use store::{OverlayRootfs, Store};
pub use unpack::Limits;
