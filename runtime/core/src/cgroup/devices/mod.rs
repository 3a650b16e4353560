//! Which devices a container may use: one rule set for both versions.

pub mod ebpf;
pub mod legacy;
pub mod rules;
pub mod unified;
