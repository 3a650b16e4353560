//! What the container's cgroup counts: as containerd wants it, and the same for both versions.

mod read;
mod usage;
mod v1;
mod v2;

use crate::cgroup::Cgroup;
use rrun_task_api::pb::Any;
use rrun_task_api::{Status, any};

pub use usage::usage;

/// The metrics that containerd knows of this version of cgroups.
pub fn metrics(cgroup: &Cgroup) -> Result<Any, Status> {
    if let Some(dir) = &cgroup.unified {
        return Ok(any::pack(
            "io.containerd.cgroups.v2.Metrics",
            &v2::metrics(dir),
        ));
    }
    if cgroup.is_empty() {
        return Err(Status::precondition(
            "the container has no cgroup of its own",
        ));
    }
    Ok(any::pack(
        "io.containerd.cgroups.v1.Metrics",
        &v1::metrics(cgroup),
    ))
}
