//! What `state` and `list` print of containers: as runc does, and with few system calls for
//! each, as there may be hundreds of them.

use crate::cgroup;
use crate::container::{START_FIFO, STATE, STATE_CREATING, Status};
use crate::{Context, Error, Result, spec};
use rrun_sys::path::{self, ENOENT};
use rrun_sys::process;
use rrun_sys::reader::Reader;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A container as it is now. Its JSON is what runc prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    oci_version: &'static str,
    /// Container id.
    pub id: String,
    /// Of init; 0 when stopped.
    pub pid: i32,
    /// Where it is in its life.
    pub status: Status,
    /// Bundle directory.
    pub bundle: PathBuf,
    rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<HashMap<String, String>>,
    /// Name of the user who owns it; the number when it has no name.
    pub owner: String,
}

/// The fields of [`crate::container::Record`] that are wanted here.
#[derive(Deserialize)]
struct Brief {
    id: String,
    init_process_pid: i32,
    init_process_start: u64,
    created: String,
    cgroup_paths: Freezer,
    bundle: PathBuf,
    rootfs: PathBuf,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// The cgroups of `cgroup_paths` that say whether a container is frozen.
#[derive(Deserialize)]
struct Freezer {
    freezer: Option<PathBuf>,
    #[serde(rename = "")]
    unified: Option<PathBuf>,
}

impl Freezer {
    /// Whether a container is frozen whose init has this `state` in /proc/PID/stat. The usual
    /// answer takes one read or none; all others are for whoever knows them all.
    fn is_frozen(&self, state: char, files: &mut Files) -> Result<bool> {
        // v1 freezes in uninterruptible sleep ('D', also where the kernel calls it TASK_FROZEN, 6.1);
        // v2 in an interruptible one, which tells nothing.
        if self.freezer.is_some() && matches!(state, 'R' | 'S') {
            return Ok(false);
        }
        let (dir, file, thawed) = match (&self.freezer, &self.unified) {
            (Some(dir), _) => (dir, "freezer.state", "THAWED\n"),
            (None, Some(dir)) => (dir, "cgroup.freeze", "0\n"),
            (None, None) => return Ok(false),
        };
        match files.read(dir, file) {
            Ok(text) if text == thawed.as_bytes() => Ok(false),
            _ => cgroup::is_frozen(self.freezer.as_deref(), self.unified.as_deref()),
        }
    }
}

/// Directories kept open: /proc, where cgroups usually are, and the last other.
const PARENTS: usize = 3;

/// Reads small files, one in the directory of each container. What these directories are in is
/// kept open: so the way there is walked once for all of them.
#[derive(Default)]
struct Files {
    reader: Reader,
    parents: Vec<(PathBuf, OwnedFd)>,
}

impl Files {
    fn read(&mut self, dir: &Path, file: &str) -> rrun_sys::Result<&[u8]> {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return self.reader.read(path::cwd(), &dir.join(file));
        };
        let known = self.parents.iter().position(|(path, _)| path == parent);
        let index = if let Some(index) = known {
            index
        } else {
            let fd = path::open(parent, path::O_PATH | path::O_DIRECTORY)?;
            self.parents.truncate(PARENTS - 1);
            self.parents.push((parent.to_owned(), fd));
            self.parents.len() - 1
        };
        let parent = self.parents[index].1.as_fd();
        self.reader.read(parent, &Path::new(name).join(file))
    }
}

/// A root directory, read container by container.
struct Root<'a> {
    path: &'a Path,
    fd: OwnedFd,
    files: Files,
    /// A path below the root; kept for its memory.
    name: String,
    passwd: Option<String>,
}

impl<'a> Root<'a> {
    /// `None` when it is not there.
    fn open(path: &'a Path) -> Result<Option<Self>> {
        match path::open(path, path::O_RDONLY | path::O_DIRECTORY) {
            Ok(fd) => Ok(Some(Self {
                path,
                fd,
                files: Files::default(),
                name: String::new(),
                passwd: None,
            })),
            Err(e) if e.is(ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn name(&mut self, id: &str, file: &str) {
        self.name.clear();
        let _ = write!(self.name, "{id}/{file}");
    }

    /// The record of container `id`, and whether `create` is still at work.
    fn brief(&mut self, id: &str) -> Result<(Brief, bool)> {
        for (file, creating) in [(STATE, false), (STATE_CREATING, true)] {
            self.name(id, file);
            let reader = &mut self.files.reader;
            match reader.read(self.fd.as_fd(), Path::new(&self.name)) {
                Ok(text) => {
                    let brief = serde_json::from_slice(text).map_err(|source| Error::Json {
                        path: self.path.join(&self.name),
                        source,
                    })?;
                    return Ok((brief, creating));
                }
                Err(e) if e.is(ENOENT) => {}
                Err(e) => return Err(e).with_context(|| format!("below {}", self.path.display())),
            }
        }
        Err(Error::NoContainer { id: id.to_owned() })
    }

    /// The state of an init that lives, as [`crate::container::Container::is_alive`] has it.
    fn alive(&mut self, brief: &Brief) -> Option<char> {
        self.name.clear();
        let _ = write!(self.name, "/proc/{}", brief.init_process_pid);
        let text = self.files.read(Path::new(&self.name), "stat").ok();
        let (start, state) = process::parse_stat(&String::from_utf8_lossy(text?))?;
        (start == brief.init_process_start && !matches!(state, 'Z' | 'X')).then_some(state)
    }

    fn view(&mut self, (brief, creating): (Brief, bool)) -> Result<View> {
        let alive = self.alive(&brief);
        let frozen = match alive {
            Some(state) if !creating => brief.cgroup_paths.is_frozen(state, &mut self.files)?,
            _ => false,
        };
        self.name(&brief.id, START_FIFO);
        // Made by who made the directory, and seldom in vain, as it tells of the status.
        let fifo = path::stat_at(self.fd.as_fd(), Path::new(&self.name)).ok();
        let status = match &fifo {
            _ if alive.is_none() => Status::Stopped,
            _ if creating => Status::Creating,
            _ if frozen => Status::Paused,
            Some(_) => Status::Created,
            None => Status::Running,
        };
        let found = match fifo {
            Some(found) => Some(found),
            None => path::stat_at(self.fd.as_fd(), Path::new(&brief.id)).ok(),
        };
        Ok(View {
            oci_version: crate::SPEC_VERSION,
            pid: match status {
                Status::Stopped => 0,
                _ => brief.init_process_pid,
            },
            status,
            bundle: brief.bundle,
            rootfs: brief.rootfs,
            created: brief.created,
            annotations: brief.annotations,
            owner: self.user(found.map_or(0, |s| s.uid)),
            id: brief.id,
        })
    }

    /// Name of user `uid`.
    fn user(&mut self, uid: u32) -> String {
        let read = || std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let passwd = self.passwd.get_or_insert_with(read);
        let name = passwd.lines().find_map(|line| {
            let (name, rest) = line.split_once(':')?;
            (rest.split(':').nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        name.unwrap_or_else(|| format!("#{uid}"))
    }

    /// Every container by id. Directories without a record are left out.
    fn briefs(&mut self) -> Result<Vec<(Brief, bool)>> {
        let mut names: Vec<String> = path::list(self.fd.as_fd())?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| spec::validate_id(name).is_ok())
            .collect();
        names.sort();
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            match self.brief(&name) {
                Ok(brief) => found.push(brief),
                Err(Error::NoContainer { .. }) => {}
                Err(e) => crate::warning!("load container {name}: {}", e.chain()),
            }
        }
        Ok(found)
    }
}

/// Container `id` below `root`; [`Error::NoContainer`] when there is none.
pub fn one(root: &Path, id: &str) -> Result<View> {
    spec::validate_id(id)?;
    let Some(mut root) = Root::open(root)? else {
        return Err(Error::NoContainer { id: id.to_owned() });
    };
    let brief = root.brief(id)?;
    root.view(brief)
}

/// Every container below `root`, by id.
pub fn all(root: &Path) -> Result<Vec<View>> {
    let Some(mut root) = Root::open(root)? else {
        return Ok(Vec::new());
    };
    let briefs = root.briefs()?;
    briefs.into_iter().map(|brief| root.view(brief)).collect()
}

/// The ids of every container below `root`.
pub fn ids(root: &Path) -> Result<Vec<String>> {
    let Some(mut root) = Root::open(root)? else {
        return Ok(Vec::new());
    };
    let briefs = root.briefs()?.into_iter();
    Ok(briefs.map(|(brief, _)| brief.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_in_part() {
        let record = r#"{"version":1,"id":"a","init_process_pid":7,"init_process_start":9,
            "created":"c","cgroup_paths":{"":"/u","cpu":"/c","freezer":"/f"},"oci_version":"1.0.2",
            "bundle":"/b","rootfs":"/b/r","annotations":{"k":"\u00e9"},"later":[{}]}"#;
        let brief: Brief = serde_json::from_str(record).unwrap();
        assert_eq!(brief.cgroup_paths.freezer, Some("/f".into()));
        assert_eq!(brief.cgroup_paths.unified, Some("/u".into()));
        assert_eq!(brief.annotations.unwrap()["k"], "é");
    }

    #[test]
    fn what_is_no_container_is_left_out() {
        let root = std::env::temp_dir().join(format!("rrun-listing-{}", std::process::id()));
        assert!(all(&root).unwrap().is_empty());
        std::fs::create_dir_all(root.join("empty")).unwrap();
        std::fs::create_dir_all(root.join("torn")).unwrap();
        std::fs::create_dir_all(root.join("gone")).unwrap();
        std::fs::write(root.join("torn").join(STATE), "{\"version\":1,").unwrap();
        let record = r#"{"id":"gone","init_process_pid":1,"init_process_start":1,"created":"c",
            "cgroup_paths":{},"oci_version":"1.0.2","bundle":"/b","rootfs":"/r"}"#;
        std::fs::write(root.join("gone").join(STATE), record).unwrap();
        let found = all(&root).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].status, found[0].pid), (Status::Stopped, 0));
        assert_eq!(ids(&root).unwrap(), ["gone"]);
        assert!(matches!(
            one(&root, "empty"),
            Err(Error::NoContainer { .. })
        ));
        assert!(one(&root, "torn").is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
