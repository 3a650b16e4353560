//! Devices of the Container Device Interface (CDI, versions 0.3 to 1.x): what a vendor's files below
//! the configured directories say that a device needs is put into the container's config.json.
//!
//! A device has the name `vendor.com/class=name`. It is asked for in the request's `cdi_devices`, in
//! annotations whose key begins with `cdi.k8s.io/`, or by an NRI plugin.

mod edits;
mod name;
mod spec;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rrun_cri_api::v1::ContainerConfig;
use serde_json::Value;

use crate::error::{self, Error};
use name::Name;
use spec::Registry;

/// Prefix of annotations whose values are device names, separated by commas.
const ANNOTATION: &str = "cdi.k8s.io/";

/// The devices that a request asks for, each once, in the order in which they are named.
pub fn asked(config: &ContainerConfig) -> error::Result<Vec<String>> {
    let field = config.cdi_devices.iter().map(|d| d.name.as_str());
    let mut keys: Vec<_> = config.annotations.iter().collect();
    keys.sort();
    let notes = keys.iter().filter(|(key, _)| key.starts_with(ANNOTATION));
    let notes = notes.flat_map(|(_, value)| value.split(',').map(str::trim));
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for device in field.chain(notes) {
        device
            .parse::<Name>()
            .map_err(|why| Error::invalid(format!("cdi_devices: {why}")))?;
        if seen.insert(device) {
            all.push(device.to_owned());
        }
    }
    Ok(all)
}

/// Puts what the devices need into a config.json. What a file says for all its devices comes before
/// what it says for one, and once.
pub fn inject(dirs: &[PathBuf], devices: &[String], spec: &mut Value) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let registry = Registry::read(dirs);
    let mut met: Vec<Arc<spec::File>> = Vec::new();
    for device in devices {
        let (file, own) = registry.find(device)?;
        if !met.iter().any(|f| Arc::ptr_eq(f, &file)) {
            let all = &file.container_edits;
            edits::apply(all, spec).with_context(|| format!("CDI file {}", file.path.display()))?;
            met.push(file.clone());
        }
        edits::apply(&own, spec)
            .with_context(|| format!("CDI device {device} of {}", file.path.display()))?;
    }
    edits::sort_mounts(spec);
    Ok(())
}

#[cfg(test)]
mod tests;
