//! Exec, attach and port-forward streams as Kubernetes speaks them: several byte streams over one
//! HTTP connection that was upgraded to SPDY/3.1 or to a WebSocket.
//!
//! Nothing here knows a container or a socket: every entry takes an HTTP request or a connected
//! byte stream, and gives byte streams.
//!
//! | who | calls | gets |
//! |---|---|---|
//! | server (CRI streaming server) | [`server::remote_command`], [`server::port_forward`] | a response to send and a future of the session |
//! | server in front of another (Kubernetes API) | [`proxy::forward`] | the response of the server behind, both connections tied together |
//! | client (`exec`, `attach`, `port-forward`) | [`client::remote_command`], [`client::port_forward`] | a session |
//!
//! Protocols: `channel.k8s.io` and `v2` to `v4.channel.k8s.io` over SPDY, the same and `v5` and
//! their `base64.` forms over WebSocket, `portforward.k8s.io` over SPDY and over SPDY tunnelled in
//! a WebSocket (`SPDY/3.1+portforward.k8s.io`), and the WebSocket port-forward with two channels
//! a port (`v4.channel.k8s.io`, `v4.base64.channel.k8s.io`).
#![forbid(unsafe_code)]

mod channels;
pub mod client;
mod copy;
mod link;
mod pipe;
pub mod proxy;
pub mod server;
pub mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tunnel;
mod types;

pub use status::{Cause, Details, Status};
pub use types::{Error, Limits, ReadStream, StreamOptions, TerminalSize, WriteStream};
