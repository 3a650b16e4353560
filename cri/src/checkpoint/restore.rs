//! A container that is created from a checkpoint.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rrun_images::{Image, OverlayRootfs, Store};

use super::{ABOUT, About, CHANGES, archive, image};

/// The names of the image that a checkpoint stands on, the surest first.
pub fn base(archive: &Path) -> Result<Vec<String>> {
    let text = archive::text(archive, ABOUT)?;
    names(&text).with_context(|| format!("parse {ABOUT} of {}", archive.display()))
}

/// The same of a checkpoint that an image holds.
pub fn base_of_image(store: &Store, image: &Image) -> Result<Vec<String>> {
    let text = image::about(store, image)?;
    names(&text).with_context(|| format!("parse {ABOUT} of image {}", image.id))
}

fn names(about: &str) -> Result<Vec<String>> {
    let about: About = serde_json::from_str(about)?;
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
/// `checkpoint` is the path of an archive, or an image's id.
pub fn unpack(store: &Store, checkpoint: &str, dir: &Path, rootfs: &OverlayRootfs) -> Result<()> {
    if checkpoint.starts_with('/') {
        archive::extract(Path::new(checkpoint), dir)?;
    } else {
        image::extract(store, checkpoint, dir)?;
    }
    let changes = dir.join(CHANGES);
    if changes.exists() {
        rootfs.load_changes(&changes)?;
        fs::remove_file(&changes).with_context(|| format!("remove {}", changes.display()))?;
    }
    Ok(())
}
