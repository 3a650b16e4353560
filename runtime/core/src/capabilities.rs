//! The five capability sets of a process, from its configuration.

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
pub use rrun_process::capabilities::{Sets, bit, names};

fn mask(set: Option<&Capabilities>) -> u64 {
    // oci-spec's Display is the name without its prefix.
    set.into_iter()
        .flatten()
        .filter_map(|c| bit(&format!("CAP_{c}")))
        .fold(0, |all, c| all | c)
}

/// From `process.capabilities`; absent sets are empty.
pub fn from_spec(capabilities: &LinuxCapabilities) -> Sets {
    Sets {
        bounding: mask(capabilities.bounding().as_ref()),
        effective: mask(capabilities.effective().as_ref()),
        inheritable: mask(capabilities.inheritable().as_ref()),
        permitted: mask(capabilities.permitted().as_ref()),
        ambient: mask(capabilities.ambient().as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_kernels_bits() {
        let json = r#"{"bounding":["CAP_CHOWN","CAP_KILL"],"ambient":["CAP_CHECKPOINT_RESTORE"]}"#;
        let sets = from_spec(&serde_json::from_str(json).unwrap());
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
            let name = names(1 << index).concat();
            let json = format!(r#"{{"effective":["{name}"]}}"#);
            let sets = from_spec(&serde_json::from_str(&json).unwrap());
            assert_eq!(sets.effective, 1 << index, "{name}");
        }
    }
}
