//! A checkpoint that an OCI image holds, as the peers have it: the archive's files are its layers', and
//! an annotation of its manifest says so.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rrun_images::{Image, Store};
use serde_json::Value;

use super::{ABOUT, CHANGES, IMAGES};

/// Of the manifest; the second is CRI-O's of before.
const ANNOTATIONS: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];
/// Larger descriptions are nobody's.
const LARGEST_TEXT: u64 = 16 << 20;
/// The image's files, below a container's directory while they are sorted.
const WORK: &str = "from-image";

/// Whether an image holds a checkpoint rather than a root file system.
pub fn is_checkpoint(store: &Store, image: &Image) -> Result<bool> {
    let blobs = store.root().join("blobs/sha256");
    let path = blobs.join(image.manifest.hex());
    let text = match fs::read(&path) {
        // Of no consequence to a root file system, which is in the layers.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        read => read.with_context(|| format!("read {}", path.display()))?,
    };
    let manifest: Value =
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
    Ok(ANNOTATIONS
        .iter()
        .any(|key| manifest["annotations"][key].is_string()))
}

/// `config.dump` of the image.
pub fn about(store: &Store, image: &Image) -> Result<String> {
    let bytes = store.read_file(image, ABOUT, LARGEST_TEXT)?;
    let bytes = bytes.with_context(|| format!("image {} has no {ABOUT}", image.id))?;
    String::from_utf8(bytes).with_context(|| format!("{ABOUT} of image {}", image.id))
}

/// Puts what a restore needs into a directory, as from an archive: regular files of known names.
pub fn extract(store: &Store, image: &str, to: &Path) -> Result<()> {
    let work = to.join(WORK);
    store.unpack_flat(image, &work)?;
    let sorted = sort(&work, to);
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    sorted
}

fn sort(from: &Path, to: &Path) -> Result<()> {
    let (dumped, images) = (from.join(IMAGES), to.join(IMAGES));
    if !fs::symlink_metadata(&dumped).is_ok_and(|meta| meta.is_dir()) {
        bail!("the image has no directory {IMAGES}");
    }
    fs::create_dir(&images).with_context(|| format!("create {}", images.display()))?;
    let why = || format!("list {}", dumped.display());
    for entry in fs::read_dir(&dumped).with_context(why)? {
        let entry = entry.with_context(why)?;
        if entry.file_type().with_context(why)?.is_file() {
            take(&entry.path(), &images.join(entry.file_name()))?;
        }
    }
    match fs::symlink_metadata(from.join(CHANGES)) {
        Ok(meta) if meta.is_file() => take(&from.join(CHANGES), &to.join(CHANGES)),
        Ok(_) => bail!("{CHANGES} of the image is no file"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("look at {CHANGES} of the image")),
    }
}

fn take(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("rename {}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_known_names_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("checkpoint/deeper")).unwrap();
        fs::write(from.join("checkpoint/core-1.img"), "core").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("checkpoint/link.img")).unwrap();
        fs::write(from.join("elsewhere"), "x").unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        sort(&from, &to).unwrap();
        let names: Vec<_> = fs::read_dir(to.join(IMAGES)).unwrap().flatten().collect();
        assert_eq!(names.len(), 1);
        assert!(!to.join("elsewhere").exists());
        let links = dir.path().join("links");
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink("/etc", links.join(IMAGES)).unwrap();
        assert!(sort(&links, &links).is_err());
    }
}
