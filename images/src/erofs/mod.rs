//! A directory tree as one file: an image of the kernel's read-only file system erofs.
//!
//! The same tree gives the same bytes: inodes are in the order of a walk by sorted names, and
//! nothing of the machine or the time is in it. First the tree is planned (what is in it, and where
//! each part goes), then the file is written from its start to its end.
//!
//! ```text
//! 0 … 1024 superblock, 1152 … inodes, each with its attributes and what is short │ data in blocks
//! ```

mod layout;
mod plan;
mod write;

use std::fs::File;
use std::io;
use std::path::Path;

use crate::Digest;

/// Writes the tree below `root` as an image into an empty file, and gives the file's digest.
/// `uuid` is the image's.
pub(crate) fn encode(root: &Path, file: &File, uuid: [u8; 16]) -> io::Result<Digest> {
    let plan = plan::Plan::of(root)?;
    write::write(&plan, root, file, uuid)
}
