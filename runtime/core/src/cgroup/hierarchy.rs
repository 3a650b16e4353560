//! Which cgroup hierarchies the machine has, and where the caller is in them.
//!
//! | `/sys/fs/cgroup` is | layout |
//! |---|---|
//! | cgroup2 | unified (v2 alone) |
//! | tmpfs with v1 mounts below | legacy (v1) |
//! | the same, and `unified` is cgroup2 | hybrid: v1 controllers, and v2 for cgroup.kill |

use crate::{Error, Result};
use rrun_sys::cgroup::{V1_MAGIC, V2_MAGIC, fs_type};
use std::path::{Path, PathBuf};

/// Where cgroup file systems are mounted by convention (and by systemd).
pub const MOUNT: &str = "/sys/fs/cgroup";
/// The v2 hierarchy of a hybrid machine.
pub const HYBRID: &str = "/sys/fs/cgroup/unified";

/// The machine's hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One v2 hierarchy with every controller.
    Unified,
    /// v1 hierarchies.
    Legacy {
        /// Each mounted hierarchy.
        hierarchies: Vec<Hierarchy>,
        /// Whether [`HYBRID`] is there as well.
        hybrid: bool,
        /// Whether the caller is in v1 hierarchies besides these (named ones).
        others: bool,
    },
}

/// One mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, as `cpu`, or the name as `name=systemd`.
    pub controllers: Vec<String>,
    /// Mount point.
    pub mount: PathBuf,
    /// Directory of the caller's cgroup.
    pub own: PathBuf,
}

impl Layout {
    /// Looks at the mounts.
    pub fn detect() -> Result<Self> {
        if is_unified() {
            return Ok(Self::Unified);
        }
        let hybrid = fs_type(Path::new(HYBRID)).is_ok_and(|t| t == V2_MAGIC);
        let own = read_own()?;
        let hierarchies = legacy(&own)?;
        let all = own.lines().filter(|line| !line.starts_with("0::")).count();
        if hierarchies.is_empty() {
            return Err(Error::Unsupported(
                "no cgroup file system is mounted below /sys/fs/cgroup".into(),
            ));
        }
        Ok(Self::Legacy {
            others: all > hierarchies.len(),
            hierarchies,
            hybrid,
        })
    }
}

/// Whether the machine has v2 alone.
pub fn is_unified() -> bool {
    fs_type(Path::new(MOUNT)).is_ok_and(|t| t == V2_MAGIC)
}

/// The caller's own path in the v2 hierarchy.
pub fn own_unified() -> Result<PathBuf> {
    unified_path(&read_own()?).ok_or_else(|| {
        Error::Unsupported("/proc/self/cgroup has no line of the v2 hierarchy (0::)".into())
    })
}

/// The path of the v2 line (`0::/path`) of a /proc/PID/cgroup.
pub fn unified_path(text: &str) -> Option<PathBuf> {
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(PathBuf::from)
}

fn read_own() -> Result<String> {
    let path = "/proc/self/cgroup";
    Ok(rrun_sys::fd::read_small(Path::new(path))?)
}

/// `id:controllers:path` lines of v1 hierarchies that matter, as (controllers, path).
pub fn parse_own(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, list, path) = (fields.next()?, fields.next()?, fields.next()?);
            let wanted = !list.is_empty() && (!list.starts_with("name=") || list == "name=systemd");
            wanted.then_some((list, path))
        })
        .collect()
}

fn legacy(own: &str) -> Result<Vec<Hierarchy>> {
    let mut mounts = Mounts::default();
    let mut found = Vec::new();
    for (list, path) in parse_own(own) {
        let Some((mount, root)) = mounts.find(list, path)? else {
            continue;
        };
        found.push(Hierarchy {
            controllers: list.split(',').map(str::to_owned).collect(),
            own: join_own(&mount, &root, path),
            mount,
        });
    }
    Ok(found)
}

/// Where cgroup `path` (of /proc/self/cgroup) is below a mount whose root is `root`: inside a
/// container without a cgroup namespace the mount starts at the container's own cgroup.
fn join_own(mount: &Path, root: &str, path: &str) -> PathBuf {
    let relative = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    mount.join(relative)
}

/// Finds mount points; /proc/self/mountinfo is read only when it is needed.
#[derive(Default)]
struct Mounts {
    info: Option<String>,
}

impl Mounts {
    /// Mount point and root of the hierarchy with the controllers `list`.
    fn find(&mut self, list: &str, own: &str) -> Result<Option<(PathBuf, String)>> {
        let name = list.strip_prefix("name=").unwrap_or(list);
        for name in [name, name.split(',').next().unwrap_or(name)] {
            let mount = Path::new(MOUNT).join(name);
            if !fs_type(&mount).is_ok_and(|t| t == V1_MAGIC) {
                continue;
            }
            // With the caller at "/" the root of the mount does not matter.
            if own == "/" {
                return Ok(Some((mount, "/".into())));
            }
            // Older kernels are asked for the whole of mountinfo below.
            if let Ok(root) = rrun_sys::mount::root_of(&mount) {
                return Ok(Some((mount, root)));
            }
            break;
        }
        if self.info.is_none() {
            let path = "/proc/self/mountinfo";
            let text = rrun_sys::fd::read_file(Path::new(path))?;
            self.info = Some(text);
        }
        let info = self.info.as_deref().unwrap_or_default();
        Ok(mount_of(info, list.split(',').next().unwrap_or(list)))
    }
}

/// Mount point and root of the v1 hierarchy with `controller`, from mountinfo's text.
pub fn mount_of(info: &str, controller: &str) -> Option<(PathBuf, String)> {
    info.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        if kind != "cgroup" || !options.split(',').any(|o| o == controller) {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let (root, mount) = (left.next()?, left.next()?);
        Some((PathBuf::from(unescape(mount)), unescape(root)))
    })
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_leave_out_foreign_named_hierarchies_and_v2() {
        let text = "5:name=elogind:/x\n4:cpu,cpuacct:/a:b\n1:name=systemd:/s\n0::/u\n";
        assert_eq!(
            parse_own(text),
            [("cpu,cpuacct", "/a:b"), ("name=systemd", "/s")]
        );
        assert_eq!(unified_path(text), Some(PathBuf::from("/u")));
    }

    #[test]
    fn mounts_by_super_options() {
        let info = "31 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            33 31 0:29 /docker/ab /sys/fs/cgroup/mem\\040ory rw shared:9 - cgroup cgroup rw,memory\n";
        let found = mount_of(info, "memory").unwrap();
        assert_eq!(
            found,
            ("/sys/fs/cgroup/mem ory".into(), "/docker/ab".into())
        );
        assert_eq!(mount_of(info, "cpu"), None);
    }

    #[test]
    fn own_below_a_mount_of_a_subtree() {
        let own = join_own(Path::new("/m"), "/docker/ab", "/docker/ab/sub");
        assert_eq!(own, Path::new("/m/sub"));
        assert_eq!(join_own(Path::new("/m"), "/", "/sub"), Path::new("/m/sub"));
    }
}
