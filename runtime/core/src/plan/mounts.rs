//! Mount options as data: attributes, propagation, what goes to the file system.

use crate::{Error, Result, annotations};
use oci_spec::runtime::{LinuxIdMapping, Spec};
use rrun_sys::mount::{MountAttr, attr};
use std::path::{Component, Path, PathBuf};

/// `MS_UNBINDABLE`.
pub const MS_UNBINDABLE: u64 = 1 << 17;
/// `MS_PRIVATE`.
pub const MS_PRIVATE: u64 = 1 << 18;
/// `MS_SLAVE`.
pub const MS_SLAVE: u64 = 1 << 19;
/// `MS_SHARED`.
pub const MS_SHARED: u64 = 1 << 20;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A part of the host's tree; with what is mounted below it when recursive.
    Bind {
        /// Absolute path on the host.
        path: PathBuf,
        /// `rbind`.
        recursive: bool,
        /// Symbolic links at the end are not followed (`src-nofollow`).
        nofollow: bool,
    },
    /// The container's cgroups.
    Cgroup {
        /// Of the v2 hierarchy (type `cgroup2`), also on a machine that has v1 as well;
        /// otherwise however the machine has them.
        unified: bool,
    },
    /// A new instance of a file system.
    Filesystem {
        /// As "tmpfs".
        kind: String,
        /// The source, as shown in mountinfo.
        source: String,
        /// `key=value` and flags for the file system.
        data: Vec<(String, Option<String>)>,
    },
    /// Change what is mounted there (option `remount`): attributes, and options of its
    /// file system, which a bind mount has none of.
    Remount {
        /// For the file system.
        data: Vec<(String, Option<String>)>,
    },
}

/// How ids are mapped on a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// `ridmap`: also on what is mounted below.
    pub recursive: bool,
    /// uid map and gid map texts; `None` for the container's user namespace.
    pub maps: Option<(String, String)>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Place in `mounts`, for messages.
    pub index: usize,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// What is mounted.
    pub source: Source,
    /// Attributes of the mount itself.
    pub attr: MountAttr,
    /// Of a bind mount in a user namespace, whose source may have attributes that are locked
    /// there: only what the options name. Locked ones that they do not name stay.
    pub named_attr: MountAttr,
    /// Attributes of it and all below it (`rro` and the like).
    pub recursive_attr: MountAttr,
    /// Propagations in order: `MS_*` and whether recursive.
    pub propagation: Vec<(u64, bool)>,
    /// A source that is a symbolic link is made as such, instead of mounted (`copy-symlink`).
    pub copy_symlink: bool,
    /// Copy what the container has at the destination into the new tmpfs.
    pub tmpcopyup: bool,
    /// Ids mapped.
    pub idmap: Option<IdMap>,
}

impl Mount {
    /// The first `key` among the file system's data.
    pub fn data(&self, key: &str) -> Option<&str> {
        let Source::Filesystem { data, .. } = &self.source else {
            return None;
        };
        data.iter()
            .find(|(k, _)| k == key)
            .and_then(|(_, v)| v.as_deref())
    }
}

/// `MS_*` and recursion of a propagation option.
pub fn propagation(name: &str) -> Option<(u64, bool)> {
    Some(match name {
        "private" => (MS_PRIVATE, false),
        "rprivate" => (MS_PRIVATE, true),
        "slave" => (MS_SLAVE, false),
        "rslave" => (MS_SLAVE, true),
        "shared" => (MS_SHARED, false),
        "rshared" => (MS_SHARED, true),
        "unbindable" => (MS_UNBINDABLE, false),
        "runbindable" => (MS_UNBINDABLE, true),
        _ => return None,
    })
}

/// Attribute options: name, bits set, bits cleared. A leading "r" makes them recursive.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("noatime", attr::NOATIME, attr::ATIME),
    ("atime", 0, attr::ATIME),
    ("relatime", 0, attr::ATIME),
    // As mount(2) without a flag, and so relatime.
    ("norelatime", 0, attr::ATIME),
    ("strictatime", attr::STRICTATIME, attr::ATIME),
    ("nostrictatime", 0, attr::ATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

/// Options of the superblock that fsconfig(2) takes as flags.
const SUPERBLOCK: [&str; 4] = ["sync", "dirsync", "lazytime", "mand"];

/// Options of mount(8) that need nothing done.
const NOTHING: [&str; 9] = [
    "defaults",
    "async",
    "loud",
    "silent",
    "nolazytime",
    "nomand",
    "iversion",
    "noiversion",
    "x-initrd.mount",
];

/// Every option that has a meaning here, for `features`.
pub fn known_options() -> Vec<String> {
    let mut names: Vec<String> = ATTRIBUTES
        .iter()
        .flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")])
        .chain(
            SUPERBLOCK
                .iter()
                .chain(&NOTHING)
                .map(|name| (*name).to_owned()),
        )
        .chain(["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"].map(str::to_owned))
        .chain(["copy-symlink", "src-nofollow"].map(str::to_owned))
        .collect();
    let propagations = ["private", "slave", "shared", "unbindable"];
    names.extend(
        propagations
            .iter()
            .flat_map(|n| [(*n).to_owned(), format!("r{n}")]),
    );
    names.sort();
    names
}

fn apply(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.set = (attr.set & !clear) | set;
    attr.clear = (attr.clear & !set) | clear;
}

/// Plans `mounts`, in order.
pub fn from_spec(spec: &Spec, bundle: &Path) -> Result<Vec<Mount>> {
    let label = spec
        .linux()
        .as_ref()
        .and_then(|l| l.mount_label().as_deref());
    let label = label.filter(|l| !l.is_empty());
    let kind = annotations::context_type(spec)?;
    let mounts = spec.mounts().iter().flatten().enumerate();
    mounts
        .map(|(index, mount)| {
            let mut planned = plan(index, mount, bundle)?;
            if let Some(label) = label {
                add_label(&mut planned, kind, label);
            }
            Ok(planned)
        })
        .collect()
}

/// `linux.mountLabel`, for file systems that take a SELinux context when they are mounted
/// and that the mount's own options give none.
fn add_label(mount: &mut Mount, key: &str, label: &str) {
    const OWN: [&str; 3] = ["proc", "sysfs", "mqueue"];
    if let Source::Filesystem { kind, data, .. } = &mut mount.source
        && !OWN.contains(&kind.as_str())
        && data.iter().all(|(key, _)| !annotations::is_context(key))
    {
        data.push((key.to_owned(), Some(label.to_owned())));
    }
}

/// Plans one mount. `index` is for messages.
pub fn plan(index: usize, mount: &oci_spec::runtime::Mount, bundle: &Path) -> Result<Mount> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let destination = clean(mount.destination());
    if mount.destination().as_os_str().is_empty() {
        return Err(Error::config(field("destination"), "is empty"));
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    let mut planned = Mount {
        index,
        destination,
        source: Source::Remount { data: Vec::new() },
        attr: MountAttr::default(),
        named_attr: MountAttr::default(),
        recursive_attr: MountAttr::default(),
        propagation: Vec::new(),
        copy_symlink: false,
        tmpcopyup: false,
        idmap: None,
    };
    let options = mount.options().as_deref().unwrap_or_default();
    let parsed = parse_options(&mut planned, options);
    planned.source = source(kind, mount, &parsed, bundle).ok_or_else(|| {
        Error::config(
            field("type"),
            "neither a type nor the option bind or rbind is given",
        )
    })?;
    if matches!(planned.source, Source::Bind { .. } | Source::Remount { .. }) {
        (planned.attr, planned.named_attr) = bind_attributes(options);
    }
    let maps = (
        mount.uid_mappings().as_deref(),
        mount.gid_mappings().as_deref(),
    );
    planned.idmap = idmap(&parsed, maps, &planned.source)
        .map_err(|why| Error::config(field("options"), why))?;
    Ok(planned)
}

/// Attributes that a user namespace may not take from a mount of its parent's (mount_namespaces(7)).
const LOCKABLE: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// The attributes of a bind mount, whole and named. By runc's rule options make them anew, so that
/// what is not named is off; without any the source's stay. Access times change only where
/// one of their modes is named by an option that sets it.
fn bind_attributes(options: &[String]) -> (MountAttr, MountAttr) {
    let known = |option: &String| ATTRIBUTES.iter().find(|(name, ..)| name == option);
    let mut named = MountAttr::default();
    let mut timed = None;
    for (name, set, clear) in options.iter().filter_map(known) {
        match *name {
            "noatime" | "strictatime" => timed = Some(*set),
            "relatime" => timed = Some(0),
            "nodiratime" => {
                apply(&mut named, *set, 0);
                timed = timed.or(Some(0));
            }
            "atime" | "norelatime" | "nostrictatime" | "diratime" => {}
            _ => apply(&mut named, *set, *clear),
        }
    }
    if options.iter().all(|option| known(option).is_none()) {
        return (named, named);
    }
    if let Some(mode) = timed {
        named.set |= mode;
        named.clear |= attr::ATIME;
        if named.set & attr::NODIRATIME == 0 {
            named.clear |= attr::NODIRATIME;
        }
    }
    named.clear |= attr::NOSYMFOLLOW & !named.set;
    let mut whole = named;
    whole.clear |= LOCKABLE & !named.set;
    (whole, named)
}

/// Options that are not attributes.
#[derive(Default)]
struct Parsed {
    bind: bool,
    recursive: bool,
    nofollow: bool,
    remount: bool,
    idmap: Option<bool>,
    data: Vec<(String, Option<String>)>,
}

fn parse_options(planned: &mut Mount, options: &[String]) -> Parsed {
    let mut parsed = Parsed::default();
    for option in options {
        let name = option.as_str();
        if let Some((_, set, clear)) = ATTRIBUTES.iter().find(|(n, ..)| *n == name) {
            apply(&mut planned.attr, *set, *clear);
        } else if let Some((_, set, clear)) = name
            .strip_prefix('r')
            .and_then(|rest| ATTRIBUTES.iter().find(|(n, ..)| *n == rest))
        {
            apply(&mut planned.recursive_attr, *set, *clear);
        } else if let Some(propagation) = propagation(name) {
            planned.propagation.push(propagation);
        } else if !NOTHING.contains(&name) {
            match name {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive) = (true, true),
                "remount" => parsed.remount = true,
                "tmpcopyup" => planned.tmpcopyup = true,
                "src-nofollow" => parsed.nofollow = true,
                "copy-symlink" => (parsed.nofollow, planned.copy_symlink) = (true, true),
                "idmap" => parsed.idmap = Some(false),
                "ridmap" => parsed.idmap = Some(true),
                _ => parsed.data.push(match name.split_once('=') {
                    // As callers write it for mount(2), where its commas need the quotes.
                    Some((key, value)) if annotations::is_context(key) => {
                        (key.to_owned(), Some(value.trim_matches('"').to_owned()))
                    }
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (name.to_owned(), None),
                }),
            }
        }
    }
    parsed
}

fn source(
    kind: &str,
    mount: &oci_spec::runtime::Mount,
    parsed: &Parsed,
    bundle: &Path,
) -> Option<Source> {
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    if parsed.remount {
        let none = parsed.bind || kind == "bind";
        let data = if none { &[][..] } else { &parsed.data };
        return Some(Source::Remount {
            data: data.to_vec(),
        });
    }
    if parsed.bind || kind == "bind" {
        return Some(Source::Bind {
            path: super::absolute(bundle, source),
            // "type": "bind" alone means bind; runc's rule.
            recursive: parsed.recursive,
            nofollow: parsed.nofollow,
        });
    }
    match kind {
        "" | "none" => None,
        "cgroup" => Some(Source::Cgroup { unified: false }),
        "cgroup2" => Some(Source::Cgroup { unified: true }),
        kind => Some(Source::Filesystem {
            kind: kind.to_owned(),
            source: source.to_string_lossy().into_owned(),
            data: parsed.data.clone(),
        }),
    }
}

fn idmap(
    parsed: &Parsed,
    (uids, gids): (Option<&[LinuxIdMapping]>, Option<&[LinuxIdMapping]>),
    source: &Source,
) -> std::result::Result<Option<IdMap>, &'static str> {
    let mapped = uids.is_some_and(|m| !m.is_empty()) || gids.is_some_and(|m| !m.is_empty());
    if !mapped && parsed.idmap.is_none() {
        return Ok(None);
    }
    let overlay = matches!(source, Source::Filesystem { kind, .. } if kind == "overlay");
    if !overlay && !matches!(source, Source::Bind { .. }) {
        return Err("id-mapped mounts are possible for bind mounts, and for an overlay's layers");
    }
    if overlay && !mapped {
        return Err("idmap of an overlay needs uidMappings and gidMappings");
    }
    let maps = match (uids, gids) {
        (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => Some((
            super::namespaces::map(Some(uids)),
            super::namespaces::map(Some(gids)),
        )),
        _ if !mapped => None,
        _ => return Err("uidMappings and gidMappings must both be given"),
    };
    Ok(Some(IdMap {
        recursive: parsed.idmap == Some(true),
        maps,
    }))
}

/// An absolute path without ".", ".." and doubled slashes; a relative one is
/// taken as absolute, as runc does.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Options that go to the file system as flags rather than to the mount.
pub fn is_superblock_flag(name: &str) -> bool {
    SUPERBLOCK.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<Mount> {
        plan(
            0,
            &serde_json::from_str(json).expect("JSON of the test"),
            Path::new("/b"),
        )
    }

    #[test]
    fn options_become_attributes_and_data() {
        let m = planned(
            r#"{"destination":"dev//shm/../x","type":"tmpfs","source":"shm",
               "options":["nosuid","noexec","mode=1777","rro","rslave","size=1k","ro","rw"]}"#,
        )
        .unwrap();
        assert_eq!(m.destination, Path::new("/dev/x"));
        assert_eq!(m.attr.set, attr::NOSUID | attr::NOEXEC);
        assert_eq!(m.attr.clear, attr::RDONLY);
        assert_eq!(m.recursive_attr.set, attr::RDONLY);
        assert_eq!(m.propagation, [(MS_SLAVE, true)]);
        assert_eq!(m.data("mode"), Some("1777"));
        assert_eq!(m.data("size"), Some("1k"));
    }

    #[test]
    fn options_of_a_bind_mount_make_its_attributes_anew() {
        let bind = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            bind_attributes(&options)
        };
        assert!(bind(&["rbind", "rprivate"]).0.is_empty());
        let (whole, named) = bind(&["bind", "ro", "exec"]);
        assert_eq!((whole.set, named.set), (attr::RDONLY, attr::RDONLY));
        let others = attr::NOSUID | attr::NODEV | attr::NOEXEC;
        assert_eq!(whole.clear, others | attr::NOSYMFOLLOW);
        assert_eq!(named.clear, attr::NOEXEC | attr::NOSYMFOLLOW);
        let (whole, _) = bind(&["atime"]);
        assert_eq!((whole.set, whole.clear & attr::ATIME), (0, 0));
        let (whole, _) = bind(&["nodiratime"]);
        assert_eq!(whole.set, attr::NODIRATIME);
        assert_eq!(whole.clear & attr::ATIME, attr::ATIME);
        let (whole, _) = bind(&["strictatime", "nodiratime"]);
        assert_eq!(whole.set, attr::STRICTATIME | attr::NODIRATIME);
    }

    #[test]
    fn a_relative_bind_source_is_below_the_bundle() {
        let m = planned(r#"{"destination":"/x","source":"d","options":["rbind","ro"]}"#).unwrap();
        let path = PathBuf::from("/b/d");
        assert_eq!(
            m.source,
            Source::Bind {
                path,
                recursive: true,
                nofollow: false
            }
        );
    }

    #[test]
    fn remount_changes_what_is_there() {
        let m = planned(r#"{"destination":"/x","options":["bind","remount","ro"]}"#).unwrap();
        assert_eq!(m.source, Source::Remount { data: Vec::new() });
        assert_eq!(m.attr.set, attr::RDONLY);
        let m = planned(r#"{"destination":"/x","type":"tmpfs","options":["remount","size=8k"]}"#)
            .unwrap();
        let data = vec![("size".to_owned(), Some("8k".to_owned()))];
        assert_eq!(m.source, Source::Remount { data });
        assert!(m.attr.is_empty());
    }

    #[test]
    fn label_goes_to_file_systems_that_take_one() {
        let labelled = |json: &str| {
            let mut m = planned(json).unwrap();
            add_label(&mut m, "context", "u:r:t:s0");
            m.data("context").map(str::to_owned)
        };
        let tmpfs = r#"{"destination":"/x","type":"tmpfs"}"#;
        assert_eq!(labelled(tmpfs).as_deref(), Some("u:r:t:s0"));
        let own = r#"{"destination":"/x","type":"tmpfs","options":["fscontext=a"]}"#;
        assert_eq!(labelled(own), None);
        let quoted =
            r#"{"destination":"/x","type":"tmpfs","options":["context=\"u:r:t:s0:c1,c2\""]}"#;
        assert_eq!(
            planned(quoted).unwrap().data("context"),
            Some("u:r:t:s0:c1,c2")
        );
        assert_eq!(labelled(r#"{"destination":"/x","type":"proc"}"#), None);
    }

    #[test]
    fn a_mount_without_a_type_is_refused() {
        assert!(planned(r#"{"destination":"/x","source":"d"}"#).is_err());
    }
}
