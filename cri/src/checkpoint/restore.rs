//! A container that is created from a checkpoint.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rrun_images::OverlayRootfs;

use super::{ABOUT, About, CHANGES, archive};

/// The names of the image that a checkpoint stands on, the surest first.
pub fn base(archive: &Path) -> Result<Vec<String>> {
    let text = archive::text(archive, ABOUT)?;
    let about: About = serde_json::from_str(&text)
        .with_context(|| format!("parse {ABOUT} of {}", archive.display()))?;
    let mut names = vec![
        about.rootfs_image_ref,
        about.rootfs_image_name,
        about.rootfs_image,
    ];
    names.retain(|name| !name.is_empty());
    names.dedup();
    Ok(names)
}

/// Puts CRIU's files beside the writable layer, in `dir`, and what the container had written into it.
pub fn unpack(archive: &Path, dir: &Path, rootfs: &OverlayRootfs) -> Result<()> {
    archive::extract(archive, dir)?;
    let changes = dir.join(CHANGES);
    if changes.exists() {
        rootfs.load_changes(&changes)?;
        fs::remove_file(&changes).with_context(|| format!("remove {}", changes.display()))?;
    }
    Ok(())
}
