//! The Kubernetes API: kinds and their rules, verbs, and the HTTP face of both.

mod client;
pub mod kinds;
mod meta;
mod pipeline;
mod resource;
mod status;

pub use client::{
    Changes, Client, DeleteOptions, Patch, Propagation, Watch, WatchEvent, WriteOptions,
};
pub use meta::now;
pub use resource::{Res, Resource};
pub use status::{Cause, Details, Result, Status};
