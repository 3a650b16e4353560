//! Which plugin set what: two plugins that set the same thing are a conflict, unless the later
//! one removes the earlier one's value first.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rrun_cri_api::nri;

/// Who set which field of one container, and which entry of it where there are many.
#[derive(Clone, Debug, Default)]
pub struct Owners(BTreeMap<(i32, String), String>);

impl Owners {
    /// Notes that a plugin sets a field, or one entry of it.
    pub fn claim(&mut self, field: nri::Field, key: &str, plugin: &str) -> Result<()> {
        // Hooks add up.
        if field == nri::Field::OciHooks {
            return Ok(());
        }
        let slot = (field as i32, key.to_owned());
        match self.0.get(&slot) {
            Some(other) if other != plugin => {
                let what = format!("{} {key}", field.as_str_name());
                bail!(
                    "NRI plugins {other} and {plugin} both set {}",
                    what.trim_end()
                )
            }
            _ => {
                self.0.insert(slot, plugin.to_owned());
                Ok(())
            }
        }
    }

    /// A plugin removes a value, so that it may be set anew.
    pub fn clear(&mut self, field: nri::Field, key: &str) {
        self.0.remove(&(field as i32, key.to_owned()));
    }

    /// As validating plugins are told.
    pub fn to_message(&self) -> nri::FieldOwners {
        let mut message = nri::FieldOwners::default();
        for ((field, key), plugin) in &self.0 {
            if key.is_empty() {
                message.simple.insert(*field, plugin.clone());
            } else {
                let compound = message.compound.entry(*field).or_default();
                compound.owners.insert(key.clone(), plugin.clone());
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_a_conflict_unless_the_value_was_removed() {
        let mut owners = Owners::default();
        owners.claim(nri::Field::Env, "A", "00-one").unwrap();
        owners.claim(nri::Field::Env, "A", "00-one").unwrap();
        owners.claim(nri::Field::Env, "B", "10-two").unwrap();
        let error = owners.claim(nri::Field::Env, "A", "10-two").unwrap_err();
        assert_eq!(
            error.to_string(),
            "NRI plugins 00-one and 10-two both set Env A"
        );
        owners.clear(nri::Field::Env, "A");
        owners.claim(nri::Field::Env, "A", "10-two").unwrap();
        owners.claim(nri::Field::MemLimit, "", "10-two").unwrap();
        let message = owners.to_message();
        assert_eq!(message.simple[&8], "10-two");
        assert_eq!(message.compound[&6].owners["A"], "10-two");
    }
}
