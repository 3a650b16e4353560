//! `mounts` of config.json, in the order in which the runtime makes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rrun_cri_api::v1::{IdMapping, Mount, MountPropagation};
use serde_json::{Value, json};

use super::Input;
use crate::error::{Error, Result};
use crate::sandbox::IdMaps;

/// What a mount of the request stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the machine, with symbolic links resolved.
    Path(PathBuf),
    /// An image: the lower directories, the topmost first.
    Layers(Vec<PathBuf>),
}

/// What was read about a mount of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFact {
    /// Where it comes from.
    pub source: Source,
    /// Propagation of the machine's mount that the source is on: it is in a peer group.
    pub shared: bool,
    /// As `shared`, and it receives from a master.
    pub slave: bool,
}

type Mounts = (Vec<Value>, Option<&'static str>);

/// The mounts, and the propagation that the root needs for them.
pub(super) fn mounts(input: &Input<'_>) -> Result<Mounts> {
    let config = input.config();
    let taken: BTreeSet<PathBuf> = config
        .mounts
        .iter()
        .map(|m| absolute(&m.container_path))
        .collect();
    let mut all: Vec<(PathBuf, Value)> = Vec::new();
    for mount in defaults(input).into_iter().chain(files(input)) {
        let destination = PathBuf::from(mount["destination"].as_str().unwrap_or_default());
        if !taken.contains(destination.as_path()) {
            all.push((destination, mount));
        }
    }
    for (path, source) in &input.facts.volumes {
        let destination = clean(path);
        if !taken.contains(destination) {
            let mount = json!({"destination": destination, "type": "bind", "source": source,
                "options": ["rbind", "rprivate", "rw"]});
            all.push((destination.to_owned(), mount));
        }
    }
    let mut root = None;
    for (mount, fact) in config.mounts.iter().zip(&input.facts.mounts) {
        let destination = absolute(&mount.container_path);
        if destination == Path::new("/") {
            return Err(Error::invalid(format!(
                "mounts: container_path {:?} is not a path below /",
                mount.container_path
            )));
        }
        let mut made = bind(mount, fact, &mut root)?;
        made["destination"] = json!(destination);
        if matches!(fact.source, Source::Layers(_)) {
            map_ids(&mut made, input.facts.users_of_pod);
        }
        all.push((destination, made));
    }
    // A mount comes after those on whose path it lies; otherwise the order stays.
    all.sort_by_key(|(destination, _)| destination.components().count());
    let mut overlay = json!({"destination": "/", "type": "overlay", "source": "overlay",
        "options": input.facts.rootfs});
    map_ids(&mut overlay, input.facts.users_of_pod);
    let mut mounts = vec![overlay];
    mounts.extend(all.into_iter().map(|(_, mount)| mount));
    Ok((mounts, root))
}

/// The path of a request's mount; one that is relative is so to the root, as with the peers.
fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(clean(path))
}

/// Without a trailing slash; the runtime resolves the rest below the root.
fn clean(path: &str) -> &Path {
    Path::new(if path.len() > 1 {
        path.trim_end_matches('/')
    } else {
        path
    })
}

/// What every container has.
fn defaults(input: &Input<'_>) -> Vec<Value> {
    let access = if input.security.privileged {
        "rw"
    } else {
        "ro"
    };
    // A sysfs belongs to a network namespace, and the pod's user namespace owns none of the machine's.
    let host_sys = input.facts.users_of_pod.is_some() && input.sandbox.host_network();
    let sys = if host_sys {
        json!({"destination": "/sys", "type": "bind", "source": "/sys",
            "options": ["rbind", "rslave", "nosuid", "noexec", "nodev", "rro"]})
    } else {
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access]})
    };
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        sys,
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
    ]
}

/// The pod's files and shared memory.
fn files(input: &Input<'_>) -> Vec<Value> {
    let dir = &input.facts.sandbox_dir;
    let access = if input.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let mut all = Vec::new();
    for name in ["hostname", "hosts", "resolv.conf"] {
        all.push(
            json!({"destination": format!("/etc/{name}"), "type": "bind",
            "source": dir.join(name), "options": ["rbind", "rprivate", access]}),
        );
    }
    let host_ipc = input.sandbox.namespaces().ipc() == rrun_cri_api::v1::NamespaceMode::Node;
    let shm = if host_ipc {
        PathBuf::from("/dev/shm")
    } else {
        dir.join("shm")
    };
    all.push(
        json!({"destination": "/dev/shm", "type": "bind", "source": shm,
        "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]}),
    );
    all
}

fn bind(mount: &Mount, fact: &MountFact, root: &mut Option<&'static str>) -> Result<Value> {
    let bad = |why: &str| {
        Err(Error::invalid(format!(
            "mounts: {}: {why}",
            mount.container_path
        )))
    };
    let mut options = vec!["rbind"];
    options.push(match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => {
            if !fact.shared && !fact.slave {
                return bad("propagation HOST_TO_CONTAINER of a path that is on a private mount");
            }
            root.get_or_insert("rslave");
            "rslave"
        }
        MountPropagation::PropagationBidirectional => {
            if !fact.shared {
                return bad("propagation BIDIRECTIONAL of a path that is not on a shared mount");
            }
            *root = Some("rshared");
            "rshared"
        }
    });
    options.push(match (mount.recursive_read_only, mount.readonly) {
        (true, false) => return bad("recursive_read_only without readonly"),
        (true, true) if mount.propagation() != MountPropagation::PropagationPrivate => {
            return bad("recursive_read_only needs private propagation");
        }
        (true, true) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    });
    if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
        return bad("uid_mappings and gid_mappings come together");
    }
    let source = match &fact.source {
        Source::Path(source) => source,
        Source::Layers(layers) => return Ok(image(mount, layers)),
    };
    let mut made = json!({"destination": mount.container_path, "type": "bind",
        "source": source, "options": options});
    if !mount.uid_mappings.is_empty() {
        made["uidMappings"] = mappings(&mount.uid_mappings);
        made["gidMappings"] = mappings(&mount.gid_mappings);
    }
    Ok(made)
}

/// `uidMappings` of config.json.
fn mappings(all: &[IdMapping]) -> Value {
    all.iter()
        .map(|m| json!({"containerID": m.container_id, "hostID": m.host_id, "size": m.length}))
        .collect()
}

/// An image's files have the machine's ids; the pod's user namespace sees them as its own.
fn map_ids(mount: &mut Value, users: Option<IdMaps>) {
    if let Some(users) = users {
        let (uids, gids) = users.to_json();
        mount["uidMappings"] = uids;
        mount["gidMappings"] = gids;
    }
}

/// A read-only image. overlayfs without an upper directory wants two layers at least.
fn image(mount: &Mount, layers: &[PathBuf]) -> Value {
    if let [only] = layers {
        return json!({"destination": mount.container_path, "type": "bind", "source": only,
            "options": ["rbind", "rprivate", "ro", "nosuid", "nodev"]});
    }
    let lower: Vec<_> = layers.iter().map(|l| l.to_string_lossy()).collect();
    json!({"destination": mount.container_path, "type": "overlay", "source": "overlay",
        "options": ["ro", "nosuid", "nodev", format!("lowerdir={}", lower.join(":"))]})
}
