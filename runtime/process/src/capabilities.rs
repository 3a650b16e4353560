//! The five capability sets of a process.

use crate::{Error, Result, Told};
use caps::Capability;
use rrun_sys::{cred, path};
use std::fmt;
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

fn failed(what: &str, error: &dyn fmt::Display) -> Error {
    Error(format!("can't apply capabilities: {what}: {error}"))
}

/// Numbers of the capabilities in `mask`.
fn numbers(mask: u64) -> impl Iterator<Item = u8> {
    (0..=cred::LAST_CAPABILITY).filter(move |n| mask & 1 << n != 0)
}

impl Sets {
    /// Drops everything outside `bounding` from the bounding set. Before setuid.
    pub fn drop_bounding(&self) -> Result<()> {
        for number in numbers(!self.bounding) {
            match cred::drop_bounding(number) {
                Ok(()) => {}
                // An older kernel does not know the newest capabilities, and without
                // CAP_SETPCAP even one that is gone already cannot be dropped.
                Err(e) if e.is(path::EINVAL) || !cred::is_bounding(number) => {}
                Err(e) => {
                    let name = names(1 << number).concat();
                    let what = format!("drop {name} from the bounding set");
                    return Err(failed(&what, &e)).told("drop capabilities of the bounding set");
                }
            }
        }
        Ok(())
    }

    /// Sets the other four. After setuid with PR_SET_KEEPCAPS. What the caller lacks is left out
    /// with one warning that names it; as is, as runc does, an ambient one that cannot be raised.
    pub fn apply(&self, warn: &dyn Fn(fmt::Arguments<'_>)) -> Result<()> {
        let held = cred::capabilities().map_err(|e| failed("read", &e))?;
        let held = held.permitted;
        let sets = self.within(held);
        let lacking = (self.effective | self.permitted | self.inheritable) & !held;
        if lacking != 0 {
            warn(format_args!(
                "capabilities left out, as this process does not have them: {}",
                names(lacking).join(" ")
            ));
        }
        let new = cred::Capabilities {
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
        };
        cred::set_capabilities(&new).map_err(|e| failed("set", &e))?;
        cred::clear_ambient().map_err(|e| failed("ambient", &e))?;
        for number in numbers(sets.ambient) {
            if let Err(error) = cred::raise_ambient(number) {
                let name = names(1 << number).concat();
                warn(format_args!(
                    "can't raise ambient capability {name}: {error}"
                ));
            }
        }
        Ok(())
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
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn each_number_has_a_name() {
        for number in numbers(!0) {
            let name = names(1 << number);
            assert_eq!(name.len(), 1, "capability {number}");
            assert_eq!(bit(&name[0]), Some(1 << number));
        }
        assert_eq!(numbers(0b1010).collect::<Vec<_>>(), [1, 3]);
    }
}
