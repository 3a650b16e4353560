//! The service proxy: connections to a Service's address go to its endpoints, by nftables.
//!
//! No packet passes through a program. The whole table is one text (`plan`), loaded in one
//! transaction (`run`), so that no connection sees a half-made state. A connection is sent to an
//! endpoint when it begins and stays there.
//!
//! ```text
//! prerouting, output ─▶ services: (address, protocol, port) ─▶ svc-… ─▶ ep-… (dnat)
//! forward, output    ─▶ reject what went to a Service's address and found no endpoint
//! postrouting        ─▶ masquerade what an endpoint sends to itself through its Service
//! ```

pub(crate) mod mark;
mod plan;
pub mod policy;
mod run;
mod script;
#[cfg(test)]
mod tests;

pub use plan::{Backend, NameServer, Own, Port, backends, plan, ports};
pub use run::Proxy;
pub use script::script;
