//! SELinux: the labels of a container, and those of the files that it is given.
//!
//! A request that names no part of a label gets none, as with containerd's default. What it leaves out
//! is as the field's policies have it: processes are `container_t`, their files `container_file_t`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rrun_cri_api::v1::SeLinuxOption;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

const XATTR: &str = "security.selinux";

/// A tree deeper than this is not one that somebody mounts.
const DEPTH: usize = 256;

/// Directories of the machine that no container's label may go to.
const MACHINES: [&str; 20] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib",
];

/// Labels of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its root file system, and of mounts that ask for it.
    pub file: String,
}

/// Those that a request asks for.
pub fn labels(asked: Option<&SeLinuxOption>) -> Option<Labels> {
    let asked = asked?;
    if [&asked.user, &asked.role, &asked.r#type, &asked.level]
        .iter()
        .all(|part| part.is_empty())
    {
        return None;
    }
    let or = |part: &String, default: &str| match part.as_str() {
        "" => default.to_owned(),
        part => part.to_owned(),
    };
    let (user, level) = (or(&asked.user, "system_u"), or(&asked.level, "s0"));
    let (role, kind) = (
        or(&asked.role, "system_r"),
        or(&asked.r#type, "container_t"),
    );
    Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        file: format!("{user}:object_r:container_file_t:{level}"),
    })
}

/// Whether SELinux is there.
pub fn enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Labels a file, or a directory with all that is below it. A file system without labels is left as it
/// is.
pub fn relabel(path: &Path, label: &str) -> Result<()> {
    if MACHINES.iter().any(|dir| path == Path::new(dir)) {
        bail!(
            "SELinux relabeling of {} is not allowed: it is the machine's",
            path.display()
        );
    }
    set(path, label)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => below(&File::from(dir), label, DEPTH)
            .with_context(|| format!("label what is in {}", path.display())),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
    }
}

/// By descriptors, since those who can write there may put a link in the place of a directory.
fn below(dir: &File, label: &str, depth: usize) -> Result<()> {
    if depth == 0 {
        bail!("more than {DEPTH} directories deep");
    }
    for entry in Dir::read_from(dir).context("list a directory")? {
        let entry = entry.context("list a directory")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let here = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let name_in_path = OsStr::from_bytes(name.to_bytes());
        set(&Path::new(&here).join(name_in_path), label)?;
        let is_dir = rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_dir {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Ok(sub) => below(&File::from(sub), label, depth - 1)?,
                // Gone, or another thing by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error).context("open a directory"),
            }
        }
    }
    Ok(())
}

fn set(path: &Path, label: &str) -> Result<()> {
    match rustix::fs::lsetxattr(path, XATTR, label.as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP | Errno::NOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("label {} {label}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_label_is_made_whole() {
        assert_eq!(labels(None), None);
        assert_eq!(labels(Some(&SeLinuxOption::default())), None);
        // What a kubelet sends for `seLinuxOptions: {level: …}`.
        let level = SeLinuxOption {
            level: "s0:c1,c2".into(),
            ..Default::default()
        };
        let made = labels(Some(&level)).unwrap();
        assert_eq!(made.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(made.file, "system_u:object_r:container_file_t:s0:c1,c2");
    }

    /// Any kernel keeps the attribute; only one with SELinux minds it.
    #[test]
    fn labels_go_to_all_that_is_below_and_follow_no_link() {
        rrun_tests::require!(rrun_tests::Need::Root);
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(inside.join("a/b/file"), "").unwrap();
        let not_text = inside.join(OsStr::from_bytes(b"a/\xff"));
        std::fs::write(&not_text, "").unwrap();
        std::fs::write(outside.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("a/link")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        relabel(&inside, label).unwrap();
        let read = |path: &Path| {
            let mut value = [0; 100];
            let length = rustix::fs::lgetxattr(path, XATTR, &mut value).unwrap_or(0);
            String::from_utf8_lossy(&value[..length]).into_owned()
        };
        for path in ["", "a", "a/b", "a/b/file", "a/link"] {
            assert_eq!(read(&inside.join(path)), label, "{path}");
        }
        assert_eq!(read(&not_text), label);
        assert_ne!(read(&outside), label);
        assert_ne!(read(&outside.join("file")), label);
    }

    #[test]
    fn the_machines_own_directories_are_never_labelled() {
        for dir in ["/", "/etc", "/usr"] {
            assert!(relabel(Path::new(dir), "a:b:c:s0").is_err(), "{dir}");
        }
    }
}
