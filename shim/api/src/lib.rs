//! ttrpc and the containerd Task API, shared by the shim and its callers.
//!
//! - [`pb`]: the messages, wire-compatible with containerd's
//! - [`frame`]: ttrpc's framing, without IO
//! - [`service`]: names of services and methods
//! - [`status`]: the error a call ends with
//! - [`stdio`]: the frames of an attach stream
//! - [`exit`]: the record of an exit that survives everybody
//! - `client`: an asynchronous client (feature `client`)
#![forbid(unsafe_code)]

pub mod any;
#[cfg(feature = "client")]
pub mod client;
pub mod exit;
pub mod frame;
pub mod pb;
pub mod service;
pub mod status;
pub mod stdio;
pub mod time;

pub use prost;
pub use status::{Code, Status};
