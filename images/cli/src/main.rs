//! Image tool of rrun.
#![forbid(unsafe_code)]

fn main() {}
