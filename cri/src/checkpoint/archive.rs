//! Reading and writing the archive. Nothing but regular files of known names is taken from one.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{ABOUT, CHANGES, IMAGES, LOG, SPEC};

/// Larger descriptions are nobody's.
const LARGEST_TEXT: u64 = 16 << 20;

/// What a request names as its image may be a file of the machine.
pub fn is_archive(image: &str) -> bool {
    image.starts_with('/') && Path::new(image).is_file()
}

/// Writes the files of a directory, each name with its path, to an archive that appears whole or not
/// at all.
pub fn write(to: &Path, entries: &[(String, PathBuf)]) -> Result<()> {
    let half = to.with_extension("part");
    let written = write_half(&half, entries).and_then(|()| {
        fs::rename(&half, to)
            .with_context(|| format!("rename {} to {}", half.display(), to.display()))
    });
    if written.is_err() {
        let _ = fs::remove_file(&half);
    }
    written
}

fn write_half(path: &Path, entries: &[(String, PathBuf)]) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let why = || format!("write {}", path.display());
    // The memory of the processes is in it.
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let file = BufWriter::new(file.open(path).with_context(why)?);
    let mut builder = tar::Builder::new(file);
    builder.mode(tar::HeaderMode::Deterministic);
    for (name, file) in entries {
        builder
            .append_path_with_name(file, name)
            .with_context(|| format!("{}: {}", why(), file.display()))?;
    }
    let mut file = builder.into_inner().with_context(why)?;
    file.flush().with_context(why)?;
    file.get_ref().sync_all().with_context(why)
}

/// A text of an archive.
pub fn text(archive: &Path, wanted: &str) -> Result<String> {
    let mut found = None;
    each(archive, |name, entry, size| {
        if name == Path::new(wanted) && size <= LARGEST_TEXT {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            found = Some(text);
        }
        Ok(())
    })?;
    found.with_context(|| format!("{} is no checkpoint: it has no {wanted}", archive.display()))
}

/// Unpacks what a restore needs into a directory.
pub fn extract(archive: &Path, to: &Path) -> Result<()> {
    let images = to.join(IMAGES);
    fs::create_dir(&images).with_context(|| format!("create {}", images.display()))?;
    each(archive, |name, entry, _| {
        let Some(target) = target(name) else {
            return Ok(());
        };
        let path = to.join(target);
        let mut file =
            File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        std::io::copy(entry, &mut file).with_context(|| format!("write {}", path.display()))?;
        Ok(())
    })
}

/// Where an entry goes: CRIU's files have no directories of their own.
fn target(name: &Path) -> Option<PathBuf> {
    let parts: Option<Vec<&str>> = name
        .components()
        .filter(|part| *part != std::path::Component::CurDir)
        .map(|part| match part {
            std::path::Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    match parts?[..] {
        [IMAGES, file] => Some(Path::new(IMAGES).join(file)),
        [CHANGES] => Some(CHANGES.into()),
        [ABOUT | SPEC | LOG] => None,
        _ => None,
    }
}

/// Goes through the regular files of an archive.
fn each(
    archive: &Path,
    mut take: impl FnMut(&Path, &mut dyn Read, u64) -> Result<()>,
) -> Result<()> {
    let why = || format!("read checkpoint {}", archive.display());
    let file = File::open(archive).with_context(why)?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    for entry in archive.entries().with_context(why)? {
        let mut entry = entry.with_context(why)?;
        let (kind, size) = (entry.header().entry_type(), entry.size());
        if kind.is_gnu_sparse() {
            bail!("{}: a sparse entry", why());
        }
        if kind.is_file() {
            let name = entry.path().with_context(why)?.into_owned();
            take(&name, &mut entry, size).with_context(why)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_gives_back_what_was_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "{}").unwrap();
        let entry = |name: &str| (name.to_owned(), file.clone());
        let archive = dir.path().join("a.tar");
        let entries = [entry(ABOUT), entry("checkpoint/core-1.img"), entry(CHANGES)];
        write(&archive, &entries).unwrap();
        assert!(is_archive(archive.to_str().unwrap()));
        assert_eq!(text(&archive, ABOUT).unwrap(), "{}");
        let error = text(&archive, SPEC).unwrap_err().to_string();
        assert!(error.contains("has no spec.dump"), "{error}");
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        extract(&archive, &out).unwrap();
        assert_eq!(fs::read(out.join("checkpoint/core-1.img")).unwrap(), b"{}");
        assert!(out.join(CHANGES).exists() && !out.join(ABOUT).exists());
    }

    #[test]
    fn no_entry_leaves_the_directory() {
        for name in [
            "../checkpoint/x",
            "/checkpoint/x",
            "checkpoint/../../x",
            "checkpoint/a/b",
            "checkpoint",
            "x",
            "rootfs-diff.tar/x",
        ] {
            assert_eq!(target(Path::new(name)), None, "{name}");
        }
        let plain = target(Path::new("./checkpoint/x"));
        assert_eq!(plain, Some(PathBuf::from("checkpoint/x")));
    }
}
