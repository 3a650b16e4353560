//! CRI v1 interface, wire-compatible with cri-api 0.36.
#![forbid(unsafe_code)]


