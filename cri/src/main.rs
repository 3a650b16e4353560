//! CRI v1 server: the socket that a kubelet plugs into.
#![forbid(unsafe_code)]

mod network;
mod streaming;

fn main() {}
