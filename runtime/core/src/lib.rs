//! OCI runtime library: specification, plan, execution.
#![forbid(unsafe_code)]


