//! What a container changed of its image: the list of its writable layer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, lgetxattr, openat, statat};
use serde_json::{Value, json};

/// So many changes are listed.
pub const MOST: usize = 500;
/// Directories within directories beyond this are not looked into.
const DEEPEST: usize = 64;

/// The changes, and whether there are more. The directory is read below its descriptor and no link
/// is followed: its names are the container's.
pub fn changes(upper: &Path) -> std::io::Result<(Vec<Value>, bool)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let root = rustix::fs::open(upper, flags, Mode::empty())?;
    let mut walk = Walk::default();
    walk.directory(&root, "", 0)?;
    walk.found
        .sort_by(|a, b| a["path"].as_str().cmp(&b["path"].as_str()));
    Ok((walk.found, walk.more))
}

#[derive(Default)]
struct Walk {
    found: Vec<Value>,
    more: bool,
}

impl Walk {
    fn directory(&mut self, at: &OwnedFd, path: &str, depth: usize) -> std::io::Result<()> {
        for entry in Dir::read_from(at)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if self.found.len() >= MOST {
                self.more = true;
                return Ok(());
            }
            let shown = format!("{path}/{}", String::from_utf8_lossy(name));
            self.entry(at, entry.file_name(), shown, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: &OwnedFd,
        name: &std::ffi::CStr,
        path: String,
        depth: usize,
    ) -> std::io::Result<()> {
        let about = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(about.st_mode);
        // A whiteout: the lower file is gone (overlayfs.rst).
        if kind == FileType::CharacterDevice && about.st_rdev == 0 {
            self.found.push(json!({"path": path, "change": "Deleted"}));
            return Ok(());
        }
        let changed = copied_up(at, name);
        if kind == FileType::Directory {
            if !changed {
                self.found
                    .push(json!({"path": format!("{path}/"), "change": "Added"}));
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            let inside = openat(at, name, flags, Mode::empty())?;
            // Another file system is none of the layer.
            let same = fstat(&inside)?.st_dev == fstat(at.as_fd())?.st_dev;
            if depth >= DEEPEST || !same {
                self.more = true;
                return Ok(());
            }
            return self.directory(&inside, &path, depth + 1);
        }
        let change = if changed { "Modified" } else { "Added" };
        let mut line = json!({"path": path, "change": change});
        match kind {
            FileType::RegularFile => line["size"] = json!(about.st_size),
            FileType::Symlink => line["type"] = json!("link"),
            _ => line["type"] = json!("special"),
        }
        self.found.push(line);
        Ok(())
    }
}

/// Whether overlayfs copied it up from the image: it marks that.
fn copied_up(at: &OwnedFd, name: &std::ffi::CStr) -> bool {
    let mut path = format!("/proc/self/fd/{}/", at.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let mut nothing = [0_u8; 512];
    ["trusted.overlay.origin", "user.overlay.origin"]
        .iter()
        .any(|mark| lgetxattr(path.as_slice(), *mark, &mut nothing[..]).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_listed_without_following_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path();
        std::fs::create_dir(upper.join("data")).unwrap();
        std::fs::write(upper.join("data/core"), "12345").unwrap();
        std::os::unix::fs::symlink("/etc", upper.join("link")).unwrap();
        let (found, more) = changes(upper).unwrap();
        assert_eq!(
            (json!(found), more),
            (
                json!([{"path": "/data/", "change": "Added"}, {"path": "/data/core", "change": "Added", "size": 5},
                    {"path": "/link", "change": "Added", "type": "link"}]),
                false
            )
        );
        for n in 0..MOST {
            std::fs::write(upper.join(format!("f{n}")), "").unwrap();
        }
        let (found, more) = changes(upper).unwrap();
        assert!(found.len() == MOST && more);
        std::fs::remove_file(upper.join("link")).unwrap();
        assert!(changes(&upper.join("none")).is_err());
    }
}
