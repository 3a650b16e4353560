//! SPDY/3.1 as the Kubernetes clients speak it (the Go package spdystream).
//!
//! Where that practice departs from the SPDY draft 3.1, practice wins:
//!
//! - Those clients neither send WINDOW_UPDATE nor count a window, so that a sender that keeps to
//!   the draft's 64 KiB would stop for ever. A peer's window is obeyed from the moment the peer
//!   takes part in flow control (SETTINGS or WINDOW_UPDATE); what we receive is granted back to
//!   every peer stream by stream, and on the session to those that take part.
//! - Each stream carries its bytes both ways after the first reply, whatever the flags.

pub(crate) mod connection;
mod dictionary;
mod flow;
pub mod frame;
pub mod headers;

/// The name in `Upgrade`.
pub const SPDY_3_1: &str = "SPDY/3.1";
