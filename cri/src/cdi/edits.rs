//! Carrying out edits on a config.json.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::stat::{major, minor};
use serde_json::{Map, Value, json};

use super::spec::{Edits, Hook, Mount, Node};
use crate::bundle::list;

/// Hooks of the runtime specification.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// Puts the edits into the configuration: a later value of a name replaces the earlier.
pub fn apply(edits: &Edits, spec: &mut Value) -> Result<()> {
    for entry in &edits.env {
        set_env(spec, entry)?;
    }
    for wanted in &edits.device_nodes {
        device(spec, wanted)?;
    }
    for wanted in &edits.net_devices {
        if wanted.host_interface_name.is_empty() || wanted.name.is_empty() {
            bail!("netDevices: hostInterfaceName and name are needed");
        }
        spec["linux"]["netDevices"][&wanted.host_interface_name] = json!({"name": wanted.name});
    }
    for wanted in &edits.mounts {
        mount(spec, wanted)?;
    }
    for wanted in &edits.hooks {
        hook(spec, wanted)?;
    }
    if let Some(rdt) = &edits.intel_rdt {
        spec["linux"]["intelRdt"] = Value::Object(rdt.clone());
    }
    let groups = list(&mut spec["process"]["user"], "additionalGids");
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        if !groups.contains(&json!(gid)) {
            groups.push(json!(gid));
        }
    }
    Ok(())
}

/// A mount comes after those on whose path it lies.
pub fn sort_mounts(spec: &mut Value) {
    let depth = |mount: &Value| {
        let path = mount["destination"].as_str().unwrap_or_default();
        Path::new(path).components().count()
    };
    list(spec, "mounts").sort_by_key(depth);
}

fn set_env(spec: &mut Value, entry: &str) -> Result<()> {
    let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        bail!("env: {entry:?} is not NAME=value");
    };
    let all = list(&mut spec["process"], "env");
    let same = |e: &Value| e.as_str().and_then(|e| e.split('=').next()) == Some(name);
    match all.iter_mut().find(|e| same(e)) {
        Some(old) => *old = json!(entry),
        None => all.push(json!(entry)),
    }
    Ok(())
}

fn device(spec: &mut Value, wanted: &Node) -> Result<()> {
    if !wanted.path.starts_with('/') {
        bail!("deviceNodes: path {:?} is not absolute", wanted.path);
    }
    let access = match wanted.permissions.as_str() {
        "" => "rwm",
        given if given.bytes().all(|b| b"rwm".contains(&b)) => given,
        given => bail!("deviceNodes: {}: permissions {given:?}", wanted.path),
    };
    let (kind, major, minor) = numbers(wanted)?;
    let mut made = json!({"path": wanted.path, "type": kind, "major": major, "minor": minor});
    if let Some(mode) = wanted.file_mode {
        made["fileMode"] = json!(mode & 0o7777);
    }
    // As the specification's own library does: the node belongs to who uses it.
    for (key, given) in [("uid", wanted.uid), ("gid", wanted.gid)] {
        let own = spec["process"]["user"][key].as_u64().unwrap_or_default();
        match given {
            Some(id) => made[key] = json!(id),
            None if own > 0 => made[key] = json!(own),
            None => {}
        }
    }
    let devices = list(&mut spec["linux"], "devices");
    devices.retain(|d| d["path"] != wanted.path.as_str());
    devices.push(made);
    if kind != "p" {
        let kind = if kind == "u" { "c" } else { &kind };
        let rule =
            json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access});
        list(&mut spec["linux"]["resources"], "devices").push(rule);
    }
    Ok(())
}

/// Type, major and minor number: those that are said, or the machine's.
fn numbers(wanted: &Node) -> Result<(String, u64, u64)> {
    let number = |value: i64| u64::try_from(value).context("deviceNodes: a negative number");
    let (given, one, two) = (
        wanted.r#type.as_str(),
        number(wanted.major)?,
        number(wanted.minor)?,
    );
    match given {
        "b" | "c" | "u" if one != 0 || two != 0 => return Ok((given.to_owned(), one, two)),
        "p" => return Ok((given.to_owned(), 0, 0)),
        "" | "b" | "c" | "u" => {}
        _ => bail!("deviceNodes: {}: type {given:?}", wanted.path),
    }
    let path = if wanted.host_path.is_empty() {
        &wanted.path
    } else {
        &wanted.host_path
    };
    let meta = fs::metadata(path).with_context(|| format!("deviceNodes: {path}"))?;
    let kind = match meta.file_type() {
        t if t.is_block_device() => "b",
        t if t.is_char_device() => "c",
        t if t.is_fifo() => "p",
        _ => bail!("deviceNodes: {path} is not a device node"),
    };
    if !given.is_empty() && kind != given && (given, kind) != ("u", "c") {
        bail!("deviceNodes: {path} is of type {kind}, not {given}");
    }
    Ok((kind.to_owned(), major(meta.rdev()), minor(meta.rdev())))
}

fn mount(spec: &mut Value, wanted: &Mount) -> Result<()> {
    let destination = wanted.container_path.as_str();
    if !destination.starts_with('/') || destination == "/" || wanted.host_path.is_empty() {
        bail!("mounts: {:?} on {destination:?}", wanted.host_path);
    }
    let kind = match wanted.r#type.as_str() {
        "" => "bind",
        kind => kind,
    };
    let mut options = wanted.options.clone();
    if kind == "bind" && !options.iter().any(|o| o == "bind" || o == "rbind") {
        options.insert(0, "rbind".to_owned());
    }
    let all = list(spec, "mounts");
    all.retain(|m| m["destination"] != destination);
    all.push(
        json!({"destination": destination, "type": kind, "source": wanted.host_path,
        "options": options}),
    );
    Ok(())
}

fn hook(spec: &mut Value, wanted: &Hook) -> Result<()> {
    let name = wanted.hook_name.as_str();
    if !HOOKS.contains(&name) {
        bail!("hooks: {name:?} is not among {}", HOOKS.join(", "));
    }
    if !wanted.path.starts_with('/') {
        bail!("hooks: {name}: path {:?} is not absolute", wanted.path);
    }
    let mut made = Map::from_iter([("path".to_owned(), json!(wanted.path))]);
    for (key, words) in [("args", &wanted.args), ("env", &wanted.env)] {
        if !words.is_empty() {
            made.insert(key.to_owned(), json!(words));
        }
    }
    if let Some(seconds) = wanted.timeout {
        made.insert("timeout".to_owned(), json!(seconds));
    }
    list(&mut spec["hooks"], name).push(Value::Object(made));
    Ok(())
}
