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
pub mod cli;
pub mod controllers;
pub mod events;
pub mod node;
pub mod proxy;
pub mod quantity;
pub mod resources;
pub mod scheduler;
pub mod dns;
pub mod serve;
pub mod store;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Runs Kubernetes YAML on one machine, and heals it.
#[derive(Debug, Parser)]
#[command(name = "rrun-pods", version)]
enum Program {
    /// Serve the Kubernetes API and run what it is told of.
    Serve(serve::Options),
}

/// Runs the program with its arguments; the first is the program's own name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let done = match Program::parse_from(args) {
        Program::Serve(options) => serve::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rrun-pods: {e:#}");
            ExitCode::FAILURE
        }
    }
}
