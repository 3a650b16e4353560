//! The directories of a container's cgroup, from `linux.cgroupsPath`, by runc's
//! rules for the cgroupfs manager:
//!
//! - absolute: below the mount point of each hierarchy;
//! - relative: v1 below the caller's own cgroup, v2 beside it (a v2 cgroup with
//!   processes cannot give controllers to children);
//! - absent: the container id, as a relative path.

use crate::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// `path` without `.`, `..` and doubled slashes; `..` cannot climb above the
/// start, so that `../../x` is `x`. Absolute stays absolute.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir => out.push("/"),
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// The cleaned path and whether the user asked for it.
pub fn inner(asked: Option<&Path>, id: &str) -> (PathBuf, bool) {
    match asked {
        Some(path) if !path.as_os_str().is_empty() => (clean(path), true),
        _ => (clean(Path::new(id)), false),
    }
}

/// Below a v1 hierarchy.
pub fn legacy(mount: &Path, own: &Path, inner: &Path) -> PathBuf {
    match inner.strip_prefix("/") {
        Ok(relative) => mount.join(relative),
        Err(_) => own.join(inner),
    }
}

/// Below the v2 mount, where the caller's own path is `own`.
pub fn unified(mount: &Path, own: &Path, inner: &Path) -> PathBuf {
    if let Ok(relative) = inner.strip_prefix("/") {
        return mount.join(relative);
    }
    let parent = own.parent().unwrap_or(Path::new("/"));
    mount
        .join(parent.strip_prefix("/").unwrap_or(parent))
        .join(inner)
}

/// `sub` (exec's `--cgroup`) below `dir`; a way out of it is refused.
pub fn below(dir: &Path, sub: &str) -> Result<PathBuf> {
    let mut path = dir.to_owned();
    for part in Path::new(sub).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path != dir => {
                path.pop();
            }
            Component::ParentDir => {
                return Err(Error::Usage(format!("bad sub cgroup path: {sub}")));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_stay_below_the_mount() {
        assert_eq!(clean(Path::new("../../etc")), Path::new("etc"));
        assert_eq!(clean(Path::new("/a/../../../b/./c")), Path::new("/b/c"));
        let below = |sub| below(Path::new("/m/x"), sub);
        assert!(below("..").is_err() && below("a/../../y").is_err());
        assert_eq!(below("/y/../z").unwrap(), Path::new("/m/x/z"));
        assert_eq!(below("/").unwrap(), Path::new("/m/x"));
    }

    #[test]
    fn relative_is_below_own_on_v1_and_beside_it_on_v2() {
        let (inner, asked) = inner(None, "c1");
        assert!(!asked);
        assert_eq!(
            legacy(Path::new("/m"), Path::new("/m/own"), &inner),
            Path::new("/m/own/c1")
        );
        let own = Path::new("/user.slice/s.scope");
        assert_eq!(
            unified(Path::new("/m"), own, &inner),
            Path::new("/m/user.slice/c1")
        );
        assert_eq!(
            unified(Path::new("/m"), Path::new("/"), &inner),
            Path::new("/m/c1")
        );
    }

    #[test]
    fn absolute_is_below_the_mount() {
        let (inner, asked) = inner(Some(Path::new("/kube//pod/c")), "c1");
        assert!(asked);
        assert_eq!(
            legacy(Path::new("/m"), Path::new("/m/own"), &inner),
            Path::new("/m/kube/pod/c")
        );
        assert_eq!(
            unified(Path::new("/m"), Path::new("/o"), &inner),
            Path::new("/m/kube/pod/c")
        );
    }
}
