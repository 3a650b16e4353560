//! Kubernetes YAML on one machine, healed.
#![forbid(unsafe_code)]

fn main() {}
