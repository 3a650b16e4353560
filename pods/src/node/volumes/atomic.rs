//! Files that change all at once: real files in a directory of their own, reached through the link
//! `..data`, which is replaced by a rename (the kubelet's AtomicWriter layout).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::payload::Files;

const LINK: &str = "..data";
const NEW_LINK: &str = "..data_tmp";

/// Brings the directory to hold exactly `files`. Nothing is touched where it does already.
pub fn write(dir: &Path, files: &Files, group: Option<i64>) -> io::Result<()> {
    let current = fs::read_link(dir.join(LINK)).ok();
    if let Some(current) = &current
        && read(&dir.join(current))?.as_ref() == Some(files)
    {
        tidy(dir, Some(current))?;
        return link_names(dir, files);
    }
    let fresh = fill(dir, files, group)?;
    let name = fresh.file_name().unwrap_or_default();
    let staged = dir.join(NEW_LINK);
    remove(&staged)?;
    symlink(name, &staged)?;
    fs::rename(&staged, dir.join(LINK))?;
    link_names(dir, files)?;
    tidy(dir, Some(Path::new(name)))
}

/// A new directory with the files.
fn fill(dir: &Path, files: &Files, group: Option<i64>) -> io::Result<PathBuf> {
    let group = group.and_then(|g| u32::try_from(g).ok());
    let now = crate::node::now();
    let fresh = (0..u32::MAX)
        .map(|n| dir.join(format!("..{}.{n}", now.strftime("%Y_%m_%d_%H_%M_%S"))))
        .find(|path| !path.exists())
        .expect("one of endless names is free");
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.data)?;
        chown(&path, None, group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    Ok(fresh)
}

/// What a directory holds; `None` where it is not there.
fn read(dir: &Path) -> io::Result<Option<Files>> {
    let mut files = Files::new();
    if !dir.is_dir() {
        return Ok(None);
    }
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path);
            let file = super::payload::File {
                data: fs::read(&path)?,
                mode: meta.permissions().mode() & 0o777,
            };
            files.insert(name.to_string_lossy().into_owned(), file);
        }
    }
    Ok(Some(files))
}

/// A link for each first part of a path, and none that leads nowhere.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            remove(&entry.path())?;
        }
    }
    for name in wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(LINK).join(name), link)?;
        }
    }
    Ok(())
}

/// Removes directories that no link leads to: what a crash or an older version left.
fn tidy(dir: &Path, current: Option<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let old = name.to_string_lossy().starts_with("..")
            && entry.file_type()?.is_dir()
            && Some(Path::new(&name)) != current;
        if old {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let file = |data: &str| File {
            data: data.into(),
            mode: 0o644,
        };
        pairs
            .iter()
            .map(|(path, data)| ((*path).to_owned(), file(data)))
            .collect()
    }

    #[test]
    fn files_change_together_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(
            (at("a").as_deref(), at("sub/b").as_deref()),
            (Some("1"), Some("2"))
        );
        let before = fs::read_link(dir.path().join(LINK)).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join(LINK)).unwrap(),
            before,
            "unchanged"
        );
        write(dir.path(), &files(&[("a", "3")]), None).unwrap();
        assert_eq!((at("a").as_deref(), at("sub/b")), (Some("3"), None));
        let hidden = fs::read_dir(dir.path()).unwrap().flatten();
        let hidden = hidden.filter(|e| e.file_name().to_string_lossy().starts_with(".."));
        assert_eq!(hidden.count(), 2, "the link and one directory");
    }
}
