//! An image as a volume: its layers, or a path below them, as overlayfs wants them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::Error;

/// What a layer has under a path.
enum Found {
    /// Nothing: the layers below decide.
    Nothing,
    /// Something that hides the layers below.
    Hidden,
    /// A directory; `true` where it hides the layers below.
    Dir(bool),
    /// A file; it hides the layers below.
    File,
    /// A symbolic link is on the way or at the end.
    Link,
}

/// The directories that make up `sub_path` of an image, the topmost first; or the one file that
/// it names. `lower` are the image's layers, the topmost first.
///
/// A symbolic link is refused rather than followed: the image decides where it leads.
pub fn layers(lower: Vec<PathBuf>, sub_path: &str) -> Result<Vec<PathBuf>> {
    if sub_path.is_empty() {
        return Ok(lower);
    }
    let relative = relative(sub_path)?;
    let mut found = Vec::new();
    for layer in lower {
        let path = layer.join(&relative);
        match look(&layer, &relative)? {
            Found::Nothing => {}
            Found::File if found.is_empty() => return Ok(vec![path]),
            // Below the directory of an upper layer a file is not seen.
            Found::File | Found::Hidden => break,
            Found::Dir(opaque) => {
                found.push(path);
                if opaque {
                    break;
                }
            }
            Found::Link => {
                let why = format!("image_sub_path {sub_path:?} is, or passes, a symbolic link");
                return Err(Error::invalid(why).into());
            }
        }
    }
    if found.is_empty() {
        return Err(
            Error::invalid(format!("image_sub_path {sub_path:?} is not in the image")).into(),
        );
    }
    Ok(found)
}

fn relative(sub_path: &str) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(sub_path).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            _ => {
                let why = format!("image_sub_path {sub_path:?} is not a path inside the image");
                return Err(Error::invalid(why).into());
            }
        }
    }
    Ok(path)
}

fn look(layer: &Path, relative: &Path) -> Result<Found> {
    let mut path = layer.to_owned();
    let mut opaque = false;
    let mut last = Found::Dir(false);
    for component in relative.components() {
        if !matches!(last, Found::Dir(_)) {
            return Ok(Found::Hidden);
        }
        path.push(component);
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(if opaque {
                    Found::Hidden
                } else {
                    Found::Nothing
                });
            }
            other => other.with_context(|| format!("stat {}", path.display()))?,
        };
        last = match meta.file_type() {
            t if t.is_symlink() => return Ok(Found::Link),
            t if t.is_char_device() && meta.rdev() == 0 => return Ok(Found::Hidden),
            t if t.is_dir() => {
                opaque |= super::etc::is_opaque(&path);
                Found::Dir(opaque)
            }
            t if t.is_file() => Found::File,
            _ => Found::Hidden,
        };
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Image(tempfile::TempDir);

    impl Image {
        fn new(paths: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for path in paths {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Self(dir)
        }

        fn sub(&self, sub_path: &str) -> Result<Vec<String>> {
            let lower = ["top", "mid", "low"].map(|l| self.0.path().join(l));
            let found = layers(lower.to_vec(), sub_path)?;
            let short = |p: PathBuf| {
                let short = p.strip_prefix(self.0.path()).unwrap();
                short.to_str().unwrap().to_owned()
            };
            Ok(found.into_iter().map(short).collect())
        }
    }

    #[test]
    fn a_directory_is_made_of_every_layer_that_has_it() {
        let image = Image::new(&["top/x/y", "mid/a/b/1", "low/a/b/2"]);
        assert_eq!(image.sub("a/./b").unwrap(), ["mid/a/b", "low/a/b"]);
        assert_eq!(image.sub("").unwrap().len(), 3);
    }

    #[test]
    fn a_file_hides_what_is_below() {
        let image = Image::new(&["top/x/y", "mid/a", "low/a/b/2"]);
        assert_eq!(image.sub("a").unwrap(), ["mid/a"]);
        assert!(image.sub("a/b").is_err());
        assert_eq!(image.sub("x/y").unwrap(), ["top/x/y"]);
    }

    #[test]
    fn paths_that_leave_the_image_or_are_not_there_are_refused() {
        let image = Image::new(&["top/x/y"]);
        symlink("/etc", image.0.path().join("top/link")).unwrap();
        for sub_path in ["../x", "/etc", "nothing", "link", "link/passwd"] {
            assert!(image.sub(sub_path).is_err(), "{sub_path}");
        }
    }
}
