//! The pod manager: the Kubernetes API over an embedded database, and what makes it come true on one
//! machine.
//!
//! ```text
//! HTTP (api/http) ─┐                       ┌─ disk (redb), one group commit per batch
//! controllers ─────┼─▶ Client ─▶ Api ─▶ Store ─ index in memory (Arc'd objects), bounded history
//! node agent ──────┘                       └─▶ watches
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod store;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program with its arguments; the first is the program's own name.
pub fn run(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::SUCCESS
}
