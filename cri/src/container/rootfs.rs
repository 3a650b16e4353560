//! The root file system of a container whose runtime does not take a mount on `/`: the shim mounts
//! it on the bundle's rootfs, and unmounts it when the container is deleted.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use rrun_task_api::pb::types;
use serde_json::Value;

/// In the bundle, beside config.json.
const FILE: &str = "rootfs.json";

/// Moves the mount on `/` from config.json to a file of its own.
pub fn split(bundle: &Path, spec: &mut Value) -> Result<()> {
    let Some(mounts) = spec["mounts"].as_array_mut() else {
        return Ok(());
    };
    let Some(at) = mounts.iter().position(|m| m["destination"] == "/") else {
        return Ok(());
    };
    let path = bundle.join(FILE);
    let text = mounts.remove(at).to_string();
    fs::create_dir_all(bundle).with_context(|| format!("create {}", bundle.display()))?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// The mounts for the shim's Create; none where the runtime makes them.
pub fn to_mount(bundle: &Path) -> Result<Vec<types::Mount>> {
    let path = bundle.join(FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        other => other.with_context(|| format!("read {}", path.display()))?,
    };
    let mount: Value =
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
    let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
    let options = mount["options"].as_array().into_iter().flatten();
    Ok(vec![types::Mount {
        r#type: text("type"),
        source: text("source"),
        options: options
            .filter_map(|o| o.as_str().map(str::to_owned))
            .collect(),
        ..Default::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_mount_on_the_root_goes_to_the_shim() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = json!({"mounts": [
            {"destination": "/", "type": "overlay", "source": "overlay", "options": ["lowerdir=/a"]},
            {"destination": "/proc", "type": "proc"},
        ]});
        assert!(to_mount(dir.path()).unwrap().is_empty());
        split(dir.path(), &mut spec).unwrap();
        assert_eq!(spec["mounts"].as_array().unwrap().len(), 1);
        let mounts = to_mount(dir.path()).unwrap();
        assert_eq!((mounts[0].r#type.as_str(), mounts.len()), ("overlay", 1));
        assert_eq!(mounts[0].options, ["lowerdir=/a"]);
    }
}
