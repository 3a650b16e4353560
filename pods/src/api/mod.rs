//! The Kubernetes API: kinds and their rules, verbs, and the HTTP face of both.

pub mod bootstrap;
mod client;
pub mod http;
pub mod kinds;
mod meta;
pub mod node;
mod pipeline;
mod resource;
pub mod schema;
mod status;
pub mod table;

pub use client::{
    Changes, Client, DeleteOptions, Patch, Propagation, Watch, WatchEvent, WriteOptions,
};
pub use meta::now;
pub use resource::{Res, Resource, Subresource};
pub use status::{Cause, Details, Result, Status};
