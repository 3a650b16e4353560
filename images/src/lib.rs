//! Images: pull, unpack, store, push.
//!
//! [`Store`] is the way in: [`Store::open`], [`Store::pull`], [`Store::list`],
//! [`Store::rootfs`]. It speaks image-spec 1.1 and distribution-spec 1.1.
#![forbid(unsafe_code)]

mod archive;
mod build;
mod bundle;
mod changes;
mod chunked;
mod digest;
mod dockerfile;
mod draft;
mod erofs;
mod error;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
mod image;
mod install;
mod manifest;
mod merged;
mod options;
mod pack;
mod platform;
mod progress;
mod pull;
mod push;
mod reference;
mod registry;
mod store;
mod tasks;
mod trust;
mod unpack;
pub mod users;

pub use archive::{Format, SaveTarget};
pub use build::LayerBuild;
pub use bundle::BundleOptions;
pub use digest::{Digest, Hasher, ImageId, digest_reader};
pub use dockerfile::{BuildOptions, Secret, default_runtime};
pub use error::{Error, Result};
pub use image::{Deduplicated, DiskUsage, History, Image, ImageConfig, Layer, Removed, Usage};
pub use manifest::Compression;
pub use options::{Credentials, PullOptions, RegistryOptions};
pub use platform::Platform;
pub use progress::{Progress, ProgressSink};
pub use reference::Reference;
pub use registry::{Referrer, delete, login, logout, referrers, tags};
pub use store::{Change, ChangeKind, CheckReport, LayerFormat, OverlayRootfs, Problem, Store};
pub use unpack::Limits;
pub use users::UserIds;
