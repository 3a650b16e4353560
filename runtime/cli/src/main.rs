//! OCI runtime with runc's command line.
#![forbid(unsafe_code)]

fn main() {}
