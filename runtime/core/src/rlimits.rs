//! Resource limits of a process.

use crate::Result;
use oci_spec::runtime::PosixRlimit;

/// One limit for prlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Checks `process.rlimits` (no duplicates, soft at most hard).
pub fn from_spec(rlimits: &[PosixRlimit]) -> Result<Vec<Rlimit>> {
    let _ = rlimits;
    Ok(Vec::new())
}

/// Sets them on process `pid` (0: the caller).
pub fn apply(pid: i32, rlimits: &[Rlimit]) -> Result<()> {
    let _ = (pid, rlimits);
    Ok(())
}
