//! `google.protobuf.Any` as containerd uses it: type URLs are bare full names, and runtime-spec
//! types travel as JSON.

use crate::pb::Any;
use prost::Message;

/// Type URL of the JSON of a runtime-spec Process (exec).
pub const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type URL of the JSON of a runtime-spec LinuxResources (update).
pub const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// Type URL of [`crate::pb::runc::Options`].
pub const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
/// Type URL of [`crate::pb::runtime_options::Options`].
pub const RUNTIME_OPTIONS: &str = "runtimeoptions.v1.Options";
/// Type URL of [`crate::pb::runc::CheckpointOptions`].
pub const CHECKPOINT_OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";

/// Type URL of [`crate::pb::shim::PeerOptions`].
pub const PEER_OPTIONS: &str = "rrun.shim.v1.PeerOptions";

/// Packs a message under its bare full name.
pub fn pack(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: name.to_owned(),
        value: message.encode_to_vec(),
    }
}

/// Packs JSON under one of the URLs above.
pub fn pack_json(url: &str, json: Vec<u8>) -> Any {
    Any {
        type_url: url.to_owned(),
        value: json,
    }
}

/// Whether an Any holds the named message, with or without a `type.googleapis.com/` before it.
pub fn is(any: &Any, name: &str) -> bool {
    any.type_url == name
        || any
            .type_url
            .strip_suffix(name)
            .is_some_and(|prefix| prefix.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_with_and_without_a_prefix() {
        for url in [
            RUNC_OPTIONS,
            "type.googleapis.com/containerd.runc.v1.Options",
        ] {
            assert!(is(
                &Any {
                    type_url: url.into(),
                    value: vec![]
                },
                RUNC_OPTIONS
            ));
        }
        let other = Any {
            type_url: "xcontainerd.runc.v1.Options".into(),
            value: vec![],
        };
        assert!(!is(&other, RUNC_OPTIONS));
    }
}
