//! Ingress: HTTP from outside, led to Services by host and path.
//!
//! ```text
//! objects ─▶ table (pure) ─▶ shared, replaced whole
//!                              │
//! ports of the node ─▶ TLS ─▶ request ─▶ route ─▶ a ready endpoint ─▶ answer
//! ```
//!
//! It runs on a thread of its own, so that traffic does not keep the API waiting, and only while
//! there is an Ingress to serve: without one no port of the node is taken.

mod certs;
mod forward;
mod pool;
mod run;
mod server;
mod table;
#[cfg(test)]
mod tests;

pub use run::{Ingresses, Port, Ports};
pub use table::{CONTROLLER, Route, Table, Target};
