//! Who works on a store: the machine's root, the root of a user namespace, or a plain user.
//!
//! A plain user has one id to give files: all of a layer become its own, which in a container is root's.
//! Where `/etc/subuid` and `/etc/subgid` lend it more, [`enter`] moves the process into a user namespace
//! that maps them, and files have the owners that their layers say.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::OnceLock;

use rrun_sys::process::{self, Clone as Side};

use crate::error::FileContext;
use crate::{Error, Result};

/// `CLONE_NEWUSER` of sched.h.
const NEW_USER: i32 = 0x1000_0000;
/// What the initial user namespace maps.
const ALL: u32 = u32::MAX;

/// True once [`enter`] made the namespace that the process is in.
static ENTERED: OnceLock<()> = OnceLock::new();

/// What the process may do to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// Everything.
    Root,
    /// Give files to the ids that the user namespace maps; no devices, no `trusted.*` attributes.
    Namespace,
    /// Make files of its own.
    User,
}

impl Privilege {
    /// Of this process.
    pub fn now() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::User;
        }
        match maps("uid_map").as_deref() {
            Some([only]) if only.length == ALL => Self::Root,
            _ => Self::Namespace,
        }
    }

    /// True for all but root.
    pub fn is_rootless(self) -> bool {
        self != Self::Root
    }
}

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    /// First id in the namespace.
    pub inside: u32,
    /// First id outside of it.
    pub outside: u32,
    pub length: u32,
}

/// The ids of a container's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

impl IdMaps {
    /// Those that whoever started this process has to give a container, so that its files have
    /// the owners that they have here; `None` where it needs no user namespace.
    pub fn of_containers() -> Option<Self> {
        match Privilege::now() {
            Privilege::User => {
                let own = |outside| IdMap {
                    inside: 0,
                    outside,
                    length: 1,
                };
                Some(Self {
                    uids: vec![own(rustix::process::geteuid().as_raw())],
                    gids: vec![own(rustix::process::getegid().as_raw())],
                })
            }
            Privilege::Namespace if ENTERED.get().is_some() => Self::own(),
            _ => None,
        }
    }

    /// Those of the namespace that this process is in.
    pub fn own() -> Option<Self> {
        Some(Self {
            uids: maps("uid_map")?,
            gids: maps("gid_map")?,
        })
    }

    pub fn has_uid(&self, id: u32) -> bool {
        has(&self.uids, id)
    }

    pub fn has_gid(&self, id: u32) -> bool {
        has(&self.gids, id)
    }
}

/// True where a user who is not root started this process.
pub fn is_rootless() -> bool {
    IdMaps::of_containers().is_some()
}

fn has(maps: &[IdMap], id: u32) -> bool {
    let inside = |map: &IdMap| id >= map.inside && id - map.inside < map.length;
    maps.iter().any(inside)
}

fn maps(name: &str) -> Option<Vec<IdMap>> {
    let text = fs::read_to_string(format!("/proc/self/{name}")).ok()?;
    let map = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|n| n.parse().ok());
        Some(IdMap {
            inside: numbers.next()??,
            outside: numbers.next()??,
            length: numbers.next()??,
        })
    };
    text.lines().map(map).collect()
}

/// Moves the process into a user namespace with the ids that `/etc/subuid` and `/etc/subgid` lend
/// its user, by newuidmap(1) and newgidmap(1). True where it is in one then; false for root, for a
/// user who is lent none, and where those programs are missing: it goes on as it was.
///
/// The process must have one thread. Where the kernel makes no user namespaces for users, or the
/// programs refuse what the files say, that is told, and it goes on as it was too.
pub fn enter() -> Result<bool> {
    if Privilege::now() != Privilege::User {
        return Ok(false);
    }
    let Some((uids, gids)) = lent_ids() else {
        return Ok(false);
    };
    let namespace = match make(&uids, &gids) {
        Ok(namespace) => namespace,
        Err(error) => {
            tracing::warn!("all files will be this user's own: {error}");
            return Ok(false);
        }
    };
    rrun_sys::ns::setns(namespace.as_fd(), NEW_USER).map_err(|error| failed(&error))?;
    let _ = ENTERED.set(());
    Ok(true)
}

/// True where [`enter`] has ids to map.
pub(crate) fn has_lent_ids() -> bool {
    lent_ids().is_some()
}

fn lent_ids() -> Option<(Vec<IdMap>, Vec<IdMap>)> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let name = login(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid);
    let lent = |file: &str, own: u32| {
        let text = fs::read_to_string(file).unwrap_or_default();
        with_own(own, &ranges(&text, uid, name.as_deref()))
    };
    let (uids, gids) = (lent("/etc/subuid", uid), lent("/etc/subgid", gid));
    let usable = uids.len() > 1 && gids.len() > 1;
    (usable && ["newuidmap", "newgidmap"].iter().all(|p| on_path(p))).then_some((uids, gids))
}

fn failed(error: &dyn std::fmt::Display) -> Error {
    Error::document("a user namespace", error)
}

/// A user namespace with these maps, held by its descriptor alone.
fn make(uids: &[IdMap], gids: &[IdMap]) -> Result<fs::File> {
    let (ours, mut theirs) = UnixStream::pair().map_err(|error| failed(&error))?;
    let (pid, pidfd) = match process::clone3(NEW_USER, None).map_err(|error| failed(&error))? {
        Side::Child => {
            drop(ours);
            // Until the parent closes its end.
            let _ = theirs.read(&mut [0]);
            process::exit_now(0)
        }
        Side::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let made = process::pid_in_proc(&pidfd)
        .map_err(|error| failed(&error))
        .and_then(|pid| {
            write("newuidmap", pid, uids)?;
            write("newgidmap", pid, gids)?;
            let path = format!("/proc/{pid}/ns/user");
            fs::File::open(&path).at("open", path.as_ref())
        });
    drop(ours);
    process::wait(pid, false).map_err(|error| failed(&error))?;
    made
}

fn write(program: &str, pid: i32, maps: &[IdMap]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.inside, map.outside, map.length].map(|n| n.to_string()));
    }
    let output = command.output().at("run", program.as_ref())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    let why = format!("refused the ids of /etc/subuid and /etc/subgid: {said}");
    Err(Error::document(program, why))
}

pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The login name of an id in the text of passwd.
fn login(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// First id and number of what the text of subuid or subgid lends a user (subuid(5)).
fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let (who, rest) = line.split_once(':')?;
        let (first, count) = rest.trim_end().split_once(':')?;
        let mine = Some(who) == name || who.parse() == Ok(uid);
        let (first, count) = (first.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        (mine && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// One's own id is root's, and the ranges follow.
fn with_own(own: u32, ranges: &[(u32, u32)]) -> Vec<IdMap> {
    let mut maps = vec![IdMap {
        inside: 0,
        outside: own,
        length: 1,
    }];
    let mut inside = 1u32;
    for &(outside, length) in ranges {
        maps.push(IdMap {
            inside,
            outside,
            length,
        });
        match inside.checked_add(length) {
            Some(next) => inside = next,
            None => break,
        }
    }
    maps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_gets_what_the_files_lend_it() {
        let text = "root:1:5\nme:100000:65536\n1000:300000:10\nother:9:9\nme:x:1\nme:7:0\n# no\n";
        let found = ranges(
            text,
            1000,
            login("a:x:1:1\nme:x:1000:1000::/\n", 1000).as_deref(),
        );
        assert_eq!(found, [(100_000, 65536), (300_000, 10)]);
        let maps = with_own(1000, &found);
        let starts: Vec<_> = maps.iter().map(|m| (m.inside, m.outside)).collect();
        assert_eq!(starts, [(0, 1000), (1, 100_000), (65537, 300_000)]);
        let maps = IdMaps {
            uids: maps,
            gids: with_own(1000, &[]),
        };
        assert!(maps.has_uid(0) && maps.has_uid(65546) && !maps.has_uid(65547));
        assert!(maps.has_gid(0) && !maps.has_gid(1));
    }
}
