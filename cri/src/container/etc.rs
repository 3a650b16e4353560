//! `/etc/passwd` and `/etc/group` of an image that is not mounted.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::bundle::UserFiles;

/// An image may carry any file under these names; a real one is far below this.
const LIMIT: u64 = 4 << 20;

/// What was found under a name in one layer.
enum Found {
    /// Go on with the layer below.
    Nothing,
    /// The layer says that it does not exist.
    Whiteout,
    /// Its content.
    Text(String),
    /// A symbolic link is on the way: only a mounted root can tell.
    Unclear,
}

/// Reads both files. `lower` are the layers, the topmost first.
pub fn read(lower: &[PathBuf]) -> Result<UserFiles> {
    let look = |name: &str| -> Result<Option<String>> {
        for layer in lower {
            match in_layer(layer, name)? {
                Found::Nothing => {}
                Found::Whiteout => return Ok(Some(String::new())),
                Found::Text(text) => return Ok(Some(text)),
                Found::Unclear => return Ok(None),
            }
        }
        Ok(Some(String::new()))
    };
    match (look("passwd")?, look("group")?) {
        (Some(passwd), Some(group)) => Ok(UserFiles { passwd, group }),
        _ => mounted(lower),
    }
}

fn in_layer(layer: &Path, name: &str) -> Result<Found> {
    let etc = layer.join("etc");
    match std::fs::symlink_metadata(&etc) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error).with_context(|| format!("stat {}", etc.display())),
        Ok(meta) if meta.is_symlink() => return Ok(Found::Unclear),
        Ok(meta) if is_whiteout(&meta) => return Ok(Found::Whiteout),
        Ok(_) => {}
    }
    let path = etc.join(name);
    match std::fs::symlink_metadata(&path) {
        // An opaque directory hides the layers below; so does a file in it, found above. The rare
        // layer with an opaque /etc and no passwd is told apart by its attribute.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(if is_opaque(&etc) {
            Found::Whiteout
        } else {
            Found::Nothing
        }),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(Found::Whiteout),
        Err(error) => Err(error).with_context(|| format!("stat {}", path.display())),
        Ok(meta) if meta.is_symlink() => Ok(Found::Unclear),
        Ok(meta) if is_whiteout(&meta) => Ok(Found::Whiteout),
        Ok(meta) if !meta.is_file() => Ok(Found::Whiteout),
        Ok(_) => {
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            Ok(Found::Text(text(file, &path)?))
        }
    }
}

fn is_whiteout(meta: &std::fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

pub(super) fn is_opaque(dir: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| {
            let mut value = [0; 1];
            rustix::fs::lgetxattr(dir, *name, &mut value).is_ok_and(|n| n == 1 && value == *b"y")
        })
}

fn text(file: File, path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > LIMIT {
        bail!("{} is larger than {LIMIT} bytes", path.display());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Mounts the layers in a mount namespace that ends with its thread, so that nothing is left on
/// the machine whatever happens, and resolves links below that root.
fn mounted(lower: &[PathBuf]) -> Result<UserFiles> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| mounted_here(lower))
            .join()
            .unwrap_or_else(|_| bail!("the thread that reads the image panicked"))
    })
}

fn mounted_here(lower: &[PathBuf]) -> Result<UserFiles> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make / private")?;
    // A single layer is a root as it is; overlayfs wants two.
    let (target, options) = match lower {
        [only] => (only.clone(), None),
        many => {
            let names: Vec<_> = many.iter().map(|l| l.to_string_lossy()).collect();
            (
                std::env::temp_dir(),
                Some(format!("lowerdir={}", names.join(":"))),
            )
        }
    };
    if let Some(options) = options {
        mount(
            Some("overlay"),
            &target,
            Some("overlay"),
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
            Some(options.as_str()),
        )
        .context("mount the image's layers")?;
    }
    let root = File::open(&target).context("open the image's root")?;
    Ok(UserFiles {
        passwd: below(&root, "etc/passwd")?,
        group: below(&root, "etc/group")?,
    })
}

fn below(root: &File, name: &str) -> Result<String> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(root, name, how) {
        Ok(fd) => {
            let file = File::from(fd);
            if !file.metadata().context("stat")?.is_file() {
                return Ok(String::new());
            }
            text(file, Path::new(name))
        }
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("open {name} of the image")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn layers(dir: &Path, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|n| {
                let layer = dir.join(n.to_string());
                fs::create_dir_all(layer.join("etc")).unwrap();
                layer
            })
            .collect()
    }

    #[test]
    fn the_topmost_layer_that_has_the_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), 3);
        fs::write(lower[1].join("etc/passwd"), "middle").unwrap();
        fs::write(lower[2].join("etc/passwd"), "bottom").unwrap();
        fs::write(lower[2].join("etc/group"), "group").unwrap();
        let files = read(&lower).unwrap();
        assert_eq!(
            (files.passwd.as_str(), files.group.as_str()),
            ("middle", "group")
        );
    }

    #[test]
    fn an_image_without_accounts_reads_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        let files = read(&layers(dir.path(), 1)).unwrap();
        assert!(files.passwd.is_empty() && files.group.is_empty());
    }

    #[test]
    fn a_link_out_of_the_image_stays_inside() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let lower = layers(dir.path(), 2);
        symlink("/accounts", lower[0].join("etc/passwd")).unwrap();
        symlink("../../../../etc/shadow", lower[0].join("etc/group")).unwrap();
        fs::write(lower[1].join("accounts"), "inside").unwrap();
        let files = read(&lower).unwrap();
        assert_eq!(files.passwd, "inside");
        assert_eq!(files.group, "");
    }
}
