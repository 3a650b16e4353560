//! The pod manager: the Kubernetes API over an embedded database, and what makes it come true on one
//! machine.
//!
//! ```text
//! HTTP (api/http) ─┐                       ┌─ disk (redb), one group commit per batch
//! controllers ─────┼─▶ Client ─▶ Api ─▶ Store ─ index in memory (Arc'd objects), bounded history
//! node agent ──────┘                       └─▶ watches
//! ```
#![forbid(unsafe_code)]
// Pedantic lints that would make tables of cases and lines of text harder to read.
#![allow(
    clippy::format_push_string,
    clippy::match_same_arms,
    clippy::needless_pass_by_value,
    clippy::single_match_else
)]

pub mod api;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod controllers;
pub mod dns;
pub mod events;
pub mod ingress;
pub mod jsonpath;
pub mod node;
pub mod proxy;
pub mod quantity;
pub mod resources;
pub mod rest;
pub mod scheduler;
pub mod serve;
pub mod store;

pub use cli::run;
