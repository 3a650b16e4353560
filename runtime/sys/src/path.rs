//! Paths resolved below a root descriptor (openat2 with RESOLVE_IN_ROOT).
