//! The node agent: makes pods come true through the CRI socket, and nothing else.
//!
//! ```text
//! API ─ pods of this node ─▶ agent ─▶ worker, one task a pod ─▶ plan ─▶ actions ─▶ CRI
//!                              ▲            ▲     │
//! CRI ─ container events ──────┘            │     └─▶ status ─▶ API
//!                             probes ───────┘
//! ```
//!
//! A worker looks at the pod and at what the CRI says of it, computes what comes next (`plan`) and
//! the status, both pure functions, and starts the actions as tasks of their own. Events only wake
//! it. Nothing is known from before a restart but what the CRI and the API know: containers are
//! found again by their labels (`names`).

mod agent;
mod api;
mod backoff;
mod capsule;
mod conditions;
mod container;
mod cri;
mod dirs;
mod du;
mod env;
mod eviction;
mod exec;
mod exec_grpc;
mod exec_http;
mod handler;
mod history;
mod hooks;
mod hugepages;
mod images;
mod memory;
mod names;
mod node_object;
mod observe;
mod plan;
mod probe;
mod resize;
mod run;
mod runtime;
mod sandbox;
mod security;
mod sources;
mod statics;
mod status;
mod termination;
mod usage;
mod volumes;
mod watch_file;
mod worker;

pub mod logs;

pub use agent::{Agent, Config};
pub use api::Answers;
pub use cri::Cri;
pub use dirs::Dirs;
pub use eviction::{Evictor, Thresholds};
pub use statics::Statics;

use jiff::Timestamp;

/// The time in whole seconds, as the API stores it.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}
