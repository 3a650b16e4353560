//! OCI runtime library: specification, plan, execution.
//!
//! The flow of `create`: [`spec`] is loaded and checked once, [`plan`] turns it
//! into data without IO, [`create`] executes the plan: the parent clones the
//! init process, which sets up its namespaces and [`rootfs`] while the parent
//! makes the cgroups; then hooks, `state.json`, and the init process waits for
//! `start` in [`init`].
#![forbid(unsafe_code)]

pub mod annotations;
pub mod capabilities;
pub mod cgroup;
pub mod console;
pub mod container;
pub mod create;
pub mod criu;
pub mod error;
pub mod exec;
pub mod explain;
pub mod hooks;
pub mod hotplug;
mod idmap;
pub mod init;
mod launch;
pub mod listing;
pub mod log;
pub mod netdev;
pub mod notify;
pub mod plan;
pub mod rdt;
pub mod rlimits;
pub mod rootfs;
pub mod sdnotify;
pub mod seccomp;
pub mod spec;
pub mod sync;
pub mod update;

pub use error::{Context, Error, Result};
pub use oci_spec::runtime as oci;

/// Version of the runtime specification that this library implements.
pub const SPEC_VERSION: &str = "1.3.0";
