//! The options of a Create request: the runc shim's, or, as containerd's CRI plugin gives them to
//! runtimes that it does not know, the same in TOML.

use rrun_task_api::Status;
use rrun_task_api::any::{self, PEER_OPTIONS, RUNC_OPTIONS, RUNTIME_OPTIONS};
use rrun_task_api::pb::Any;
use rrun_task_api::pb::runc::Options;
use rrun_task_api::pb::runtime_options::Options as Generic;
use rrun_task_api::pb::shim::PeerOptions;
use rrun_task_api::prost::Message;
use std::fs;

/// What a request says about its runtime; nothing is every default.
pub fn decode(options: Option<&Any>) -> Result<Options, Status> {
    let invalid =
        |e: rrun_task_api::prost::DecodeError| Status::invalid(format!("runtime options: {e}"));
    let Some(options) = options.filter(|options| !options.type_url.is_empty()) else {
        return Ok(Options::default());
    };
    if any::is(options, RUNC_OPTIONS) {
        return Options::decode(&options.value[..]).map_err(invalid);
    }
    if any::is(options, RUNTIME_OPTIONS) {
        return from_toml(&Generic::decode(&options.value[..]).map_err(invalid)?);
    }
    Err(Status::invalid(format!(
        "runtime options of type {:?}; known are {RUNC_OPTIONS} and {RUNTIME_OPTIONS}",
        options.type_url
    )))
}

/// The other shim that a request wants its container run by, and that one's options.
pub fn peer(options: Option<&Any>) -> Result<Option<PeerOptions>, Status> {
    let Some(options) = options.filter(|options| any::is(options, PEER_OPTIONS)) else {
        return Ok(None);
    };
    let peer = PeerOptions::decode(&options.value[..])
        .map_err(|e| Status::invalid(format!("options: {e}")))?;
    if !peer.program.starts_with('/') {
        let program = peer.program;
        return Err(Status::invalid(format!(
            "shim {program:?} is no absolute path"
        )));
    }
    Ok(Some(peer))
}

fn from_toml(generic: &Generic) -> Result<Options, Status> {
    let (name, text) = if generic.config_path.is_empty() {
        let text = String::from_utf8_lossy(&generic.config_body).into_owned();
        ("the runtime's options".to_owned(), text)
    } else {
        let text = fs::read_to_string(&generic.config_path)
            .map_err(|e| Status::invalid(format!("read {}: {e}", generic.config_path)))?;
        (generic.config_path.clone(), text)
    };
    parse(&text).map_err(|error| Status::invalid(format!("{name}: {error}")))
}

/// Lines of `Key = value`, which is all of TOML that these options need. Keys that are not ours
/// are left to others.
fn parse(text: &str) -> Result<Options, String> {
    let mut options = Options::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {number}: no \"=\" in {line:?}"))?;
        set(&mut options, key.trim(), value.trim())
            .ok_or_else(|| format!("line {number}: bad value in {line:?}"))?;
    }
    Ok(options)
}

fn set(options: &mut Options, key: &str, value: &str) -> Option<()> {
    match key.trim_matches('"') {
        "BinaryName" => options.binary_name = string(value)?,
        "Root" => options.root = string(value)?,
        "ShimCgroup" => options.shim_cgroup = string(value)?,
        "SystemdCgroup" => options.systemd_cgroup = value.parse().ok()?,
        "NoPivotRoot" => options.no_pivot_root = value.parse().ok()?,
        "NoNewKeyring" => options.no_new_keyring = value.parse().ok()?,
        "IoUid" => options.io_uid = value.parse().ok()?,
        "IoGid" => options.io_gid = value.parse().ok()?,
        _ => {}
    }
    Some(())
}

/// A TOML string without escapes, as paths and cgroups have none.
fn string(value: &str) -> Option<String> {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let text = inner('"').or_else(|| inner('\''))?;
    (!text.contains(['\\', '"', '\''])).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(body: &str) -> Result<Options, Status> {
        let generic = Generic {
            config_body: body.into(),
            ..Default::default()
        };
        decode(Some(&any::pack(RUNTIME_OPTIONS, &generic)))
    }

    #[test]
    fn toml_of_the_cri_plugin() {
        let options = generic(
            "# ours\n[options]\nBinaryName = \"/usr/bin/rrun\"\n  SystemdCgroup = true\n\
             Root = '/run/x'\nIoUid = 7\nSomebodyElses = [1]\n",
        )
        .unwrap();
        assert_eq!(options.binary_name, "/usr/bin/rrun");
        assert_eq!((options.root.as_str(), options.io_uid), ("/run/x", 7));
        assert!(options.systemd_cgroup);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(
            generic("BinaryName = rrun")
                .unwrap_err()
                .message
                .contains("line 1")
        );
        assert!(
            generic("\nSystemdCgroup = 1")
                .unwrap_err()
                .message
                .contains("line 2")
        );
        let other = Any {
            type_url: "a.b.C".into(),
            value: Vec::new(),
        };
        assert!(decode(Some(&other)).unwrap_err().message.contains("a.b.C"));
        assert_eq!(decode(None).unwrap(), Options::default());
        assert_eq!(generic("").unwrap(), Options::default());
    }
}
