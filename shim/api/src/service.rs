//! Names of services and methods on the wire.

/// The Task API up to containerd 1.7.
pub const TASK_V2: &str = "containerd.task.v2.Task";
/// The Task API from containerd 1.7 on.
pub const TASK_V3: &str = "containerd.task.v3.Task";
/// The Sandbox API.
pub const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
/// What rrun-cri needs of a shim besides.
pub const SHIM: &str = "rrun.shim.v1.Shim";
/// Served by containerd at `TTRPC_ADDRESS`: where a shim publishes events.
pub const EVENTS: &str = "containerd.services.events.ttrpc.v1.Events";
