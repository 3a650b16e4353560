//! The messages, one module per proto package.
//!
//! `containerd.task.v3` has the messages of `containerd.task.v2`; only its service name differs.
#![allow(missing_docs, clippy::pedantic, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/all.rs"));

pub use containerd::{events, task::v2 as task, types, v1::types as task_types};
pub use google::protobuf::{Any, Timestamp};
pub use rrun::shim::v1 as shim;

/// `containerd.runc.v1`
pub use containerd::runc::v1 as runc;

/// `containerd.runtime.bootstrap.v1`
pub use containerd::runtime::bootstrap::v1 as bootstrap;

/// `runtimeoptions.v1`
pub use runtimeoptions::v1 as runtime_options;

/// `containerd.runtime.sandbox.v1`
pub use containerd::runtime::sandbox::v1 as sandbox;

/// `containerd.services.events.ttrpc.v1`
pub use containerd::services::events::ttrpc::v1 as events_service;

/// `io.containerd.cgroups.v1`
pub use io::containerd::cgroups::v1 as cgroups_v1;

/// `io.containerd.cgroups.v2`
pub use io::containerd::cgroups::v2 as cgroups_v2;
