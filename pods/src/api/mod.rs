//! The Kubernetes API: kinds and their rules, verbs, and the HTTP face of both.

pub(crate) mod admission;
pub mod allocate;
pub mod auth;
pub mod bootstrap;
pub mod certificates;
mod client;
pub mod custom;
mod decode;
pub mod delete;
mod eviction;
mod fields;
pub mod http;
pub mod kinds;
mod meta;
pub mod node;
pub mod openapi;
mod own;
mod patch;
mod pipeline;
mod podparts;
mod resource;
pub mod schema;
mod status;
mod subresources;
pub mod table;
mod tokens;
pub mod validate;
mod versions;

pub use client::{
    Changes, Client, DeleteOptions, Patch, Propagation, Validation, Watch, WatchEvent, WriteOptions,
};
pub use meta::now;
pub use pipeline::Config;
pub use resource::{Res, Resource, Subresource};
pub use status::{Cause, Details, Result, Status};
