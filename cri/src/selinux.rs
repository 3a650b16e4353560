//! SELinux: the labels of a container, and those of the files that it is given.
//!
//! What a request leaves out of a label is as the field's policies have it: processes are `container_t`,
//! their files `container_file_t`. A request that names no part gets none, as with the peers' default;
//! or, where the configuration says so ([`AskedSelinux::All`]), a label that keeps pods apart too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rrun_cri_api::v1::SeLinuxOption;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::config::AskedSelinux;
use crate::error::{Error, Result as CallResult};

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

/// What the labels of a container follow from.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Of the container, where it names anything, else of the pod.
    pub options: &'a SeLinuxOption,
    /// Of the pod: [`level`].
    pub level: String,
    /// It is privileged, or sees processes of the machine: nothing is to hold it back.
    pub unconfined: bool,
}

/// Those of a container; `None` where it gets none.
pub fn labels(asked: &Asked<'_>, who: Option<AskedSelinux>) -> Option<Labels> {
    let options = asked.options;
    let parts = [
        &options.user,
        &options.role,
        &options.r#type,
        &options.level,
    ];
    let named = parts.iter().any(|part| !part.is_empty());
    let (kind, level, file_level) = match who? {
        AskedSelinux::Requested if !named => return None,
        AskedSelinux::Requested => ("container_t", "s0", "s0"),
        AskedSelinux::All if asked.unconfined => ("spc_t", "s0", asked.level.as_str()),
        AskedSelinux::All => ("container_t", asked.level.as_str(), asked.level.as_str()),
    };
    let or = |part: &String, default: &str| match part.as_str() {
        "" => default.to_owned(),
        part => part.to_owned(),
    };
    let user = or(&options.user, "system_u");
    let (role, kind) = (or(&options.role, "system_r"), or(&options.r#type, kind));
    let file_level = or(&options.level, file_level);
    let level = or(&options.level, level);
    Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        file: format!("{user}:object_r:container_file_t:{file_level}"),
    })
}

/// The level of a pod's own: sensitivity 0 with two of the 1024 categories that policies have, by the
/// start of its id.
pub fn level(id: &str) -> String {
    let start = id
        .get(..8)
        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
    // Less than half of the circle apart, so that each pair has one number alone.
    let pair = start.unwrap_or_default() % (1024 * 511);
    let first = pair % 1024;
    let second = (first + 1 + pair / 1024) % 1024;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

/// Whether the policy knows a process's label.
///
/// # Errors
///
/// [`Error::Invalid`] where it does not.
pub fn check(label: &str) -> CallResult<()> {
    let asked = fs::write("/sys/fs/selinux/context", label);
    asked.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EINVAL) => Error::invalid(format!(
            "linux.security_context.selinux_options: the machine's policy has no label {label}"
        )),
        _ => anyhow::Error::from(error)
            .context(format!("look up the SELinux label {label}"))
            .into(),
    })
}

/// The mount option that gives a file system, and all in it, a label. Quoted: a level has commas.
pub fn mount_option(label: &str) -> String {
    format!("context=\"{label}\"")
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

    fn asked(options: &SeLinuxOption) -> Asked<'_> {
        Asked {
            options,
            level: "s0:c3,c4".into(),
            unconfined: false,
        }
    }

    #[test]
    fn a_part_of_a_label_is_made_whole() {
        let who = Some(AskedSelinux::Requested);
        assert_eq!(labels(&asked(&SeLinuxOption::default()), who), None);
        // What a kubelet sends for `seLinuxOptions: {level: …}`.
        let level = SeLinuxOption {
            level: "s0:c1,c2".into(),
            ..Default::default()
        };
        let made = labels(&asked(&level), who).unwrap();
        assert_eq!(made.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(made.file, "system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(labels(&asked(&level), None), None);
    }

    #[test]
    fn who_asks_for_nothing_is_kept_to_its_pods_categories_where_all_are() {
        let nothing = SeLinuxOption::default();
        let who = Some(AskedSelinux::All);
        let made = labels(&asked(&nothing), who).unwrap();
        assert_eq!(made.process, "system_u:system_r:container_t:s0:c3,c4");
        assert_eq!(made.file, "system_u:object_r:container_file_t:s0:c3,c4");
        let free = Asked {
            unconfined: true,
            ..asked(&nothing)
        };
        let made = labels(&free, who).unwrap();
        assert_eq!(made.process, "system_u:system_r:spc_t:s0");
        assert_eq!(made.file, "system_u:object_r:container_file_t:s0:c3,c4");
    }

    #[test]
    fn levels_have_two_categories_in_order_and_one_number_each() {
        assert_eq!(level("00000000"), "s0:c0,c1");
        assert_eq!(level("000003ff"), "s0:c0,c1023");
        assert_eq!(level("0007fbff"), "s0:c510,c1023");
        let all: std::collections::BTreeSet<_> = (0..1024 * 511)
            .map(|n| level(&format!("{n:08x}")))
            .collect();
        assert_eq!(all.len(), 1024 * 511);
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
