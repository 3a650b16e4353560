//! The five capability sets of a process.

use crate::{Error, Result, warning};
use caps::{CapSet, Capability};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rrun_sys::{cred, path};
use std::str::FromStr;

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

/// Bit of a name as `CAP_KILL`; `None` for one that is not known.
pub fn bit(name: &str) -> Option<u64> {
    Capability::from_str(name).ok().map(|c| c.bitmask())
}

/// Names of the capabilities in `mask`, in the kernel's order.
pub fn names(mask: u64) -> Vec<String> {
    let mut all: Vec<_> = caps::all()
        .into_iter()
        .filter(|c| c.bitmask() & mask != 0)
        .collect();
    all.sort_by_key(Capability::index);
    all.iter().map(ToString::to_string).collect()
}

fn mask(set: Option<&Capabilities>) -> u64 {
    // oci-spec's Display is the name without its prefix.
    set.into_iter()
        .flatten()
        .filter_map(|c| bit(&format!("CAP_{c}")))
        .fold(0, |all, c| all | c)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Unsupported(format!("can't apply capabilities: {what}: {error}").into())
}

fn is_bounding(number: u8) -> bool {
    let mut all = caps::all().into_iter();
    all.find(|c| c.index() == number)
        .is_some_and(|c| caps::has_cap(None, CapSet::Bounding, c).unwrap_or(false))
}

impl Sets {
    /// From `process.capabilities`; absent sets are empty.
    pub fn from_spec(capabilities: &LinuxCapabilities) -> Self {
        Self {
            bounding: mask(capabilities.bounding().as_ref()),
            effective: mask(capabilities.effective().as_ref()),
            inheritable: mask(capabilities.inheritable().as_ref()),
            permitted: mask(capabilities.permitted().as_ref()),
            ambient: mask(capabilities.ambient().as_ref()),
        }
    }

    /// Drops everything outside `bounding` from the bounding set. Before setuid.
    pub fn drop_bounding(&self) -> Result<()> {
        for number in (0..=cred::LAST_CAPABILITY).filter(|n| self.bounding & 1 << n == 0) {
            match cred::drop_bounding(number) {
                Ok(()) => {}
                // An older kernel does not know the newest capabilities, and without
                // CAP_SETPCAP even one that is gone already cannot be dropped.
                Err(e) if e.is(path::EINVAL) || !is_bounding(number) => {}
                Err(e) => {
                    let name = names(1 << number).concat();
                    return Err(failed(&format!("drop {name} from the bounding set"), &e));
                }
            }
        }
        Ok(())
    }

    /// Sets the other four. After setuid with PR_SET_KEEPCAPS. What the caller
    /// lacks is left out with one warning that names it.
    pub fn apply(&self) -> Result<()> {
        let held = cred::capabilities()
            .map_err(|e| failed("read", &e))?
            .permitted;
        let sets = self.within(held);
        let lacking = (self.effective | self.permitted | self.inheritable) & !held;
        if lacking != 0 {
            warning!(
                "capabilities left out, as this process does not have them: {}",
                names(lacking).join(" ")
            );
        }
        let new = cred::Capabilities {
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
        };
        cred::set_capabilities(&new).map_err(|e| failed("set", &e))?;
        sets.raise_ambient()
    }

    /// The sets without what is not `held`.
    fn within(&self, held: u64) -> Self {
        Self {
            bounding: self.bounding,
            effective: self.effective & held,
            inheritable: self.inheritable & held,
            permitted: self.permitted & held,
            ambient: self.ambient & held,
        }
    }

    /// One that cannot be raised (it must be permitted and inheritable) is warned of,
    /// as runc does.
    fn raise_ambient(&self) -> Result<()> {
        caps::clear(None, CapSet::Ambient).map_err(|e| failed("ambient", &e))?;
        if self.ambient == 0 {
            return Ok(());
        }
        let wanted = caps::all().into_iter();
        for capability in wanted.filter(|c| c.bitmask() & self.ambient != 0) {
            if let Err(error) = caps::raise(None, CapSet::Ambient, capability) {
                warning!("can't raise ambient capability {capability}: {error}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_kernels_bits() {
        let json = r#"{"bounding":["CAP_CHOWN","CAP_KILL"],"ambient":["CAP_CHECKPOINT_RESTORE"]}"#;
        let sets = Sets::from_spec(&serde_json::from_str(json).unwrap());
        assert_eq!(
            sets,
            Sets {
                bounding: 1 | 1 << 5,
                ambient: 1 << 40,
                ..Sets::default()
            }
        );
    }

    #[test]
    fn every_name_of_the_specification_is_known() {
        for index in 0..=40u64 {
            let name = names(1 << index);
            assert_eq!(name.len(), 1, "capability {index}");
            assert_eq!(bit(&name[0]), Some(1 << index));
            let json = format!(r#"{{"effective":["{}"]}}"#, name[0]);
            let sets = Sets::from_spec(&serde_json::from_str(&json).unwrap());
            assert_eq!(sets.effective, 1 << index, "{}", name[0]);
        }
    }

    #[test]
    fn what_is_not_held_is_left_out() {
        let sets = Sets {
            effective: 0b111,
            permitted: 0b111,
            ambient: 0b100,
            ..Sets::default()
        };
        let within = sets.within(0b011);
        assert_eq!(
            (within.effective, within.permitted, within.ambient),
            (0b011, 0b011, 0)
        );
    }
}
