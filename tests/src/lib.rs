//! Test kit, and the cases that cross crates.
#![forbid(unsafe_code)]


