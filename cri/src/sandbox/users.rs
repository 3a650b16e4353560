//! The user namespace of a pod: which ids of the machine its ids are, and the namespace itself.
//!
//! A process with threads cannot make one (unshare(2)), and the pod's other namespaces must belong
//! to it, so all of them are made by this program under another command, as `init` is:
//!
//! ```text
//! daemon                         helper
//!   ◀────────────────────── u ──       it is in a new user namespace
//!   ── 1 ───────────────────────▶      its id maps are written
//!   ◀──────────────────── PID ──       where the namespaces are: the helper, or the pod's init
//!   ── 1, or end ───────────────▶      they are pinned
//!   ◀──────────────────────────        the init is all that it is to be (standard error)
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rrun_cri_api::v1::{IdMapping, NamespaceMode, NamespaceOption};
use serde_json::{Value, json};

use super::init;
use crate::error::{self, Error};

/// The command of the helper.
pub const COMMAND: &str = "pod-namespaces";

/// Ids from 0 on in the pod and what they are on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The machine's id of the pod's 0.
    pub host: u32,
    /// How many.
    pub length: u32,
}

/// The maps of a pod's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub uids: Range,
    /// Groups.
    pub gids: Range,
}

impl IdMaps {
    /// What a request asks for; `None` where the pod is in the machine's user namespace.
    pub fn of(options: &NamespaceOption) -> error::Result<Option<Self>> {
        let Some(users) = &options.userns_options else {
            return Ok(None);
        };
        match users.mode() {
            NamespaceMode::Node if users.uids.is_empty() && users.gids.is_empty() => Ok(None),
            NamespaceMode::Node => Err(bad("NODE has no mappings")),
            NamespaceMode::Pod => {
                if options.pid() == NamespaceMode::Node || options.ipc() == NamespaceMode::Node {
                    return Err(bad("needs pid and ipc namespaces of the pod's own"));
                }
                Ok(Some(Self {
                    uids: range("uids", &users.uids)?,
                    gids: range("gids", &users.gids)?,
                }))
            }
            mode => Err(bad(&format!(
                "mode {}: it is POD or NODE",
                mode.as_str_name()
            ))),
        }
    }

    /// `uidMappings` and `gidMappings` as config.json has them.
    pub fn to_json(self) -> (Value, Value) {
        let one = |r: Range| json!([{"containerID": 0, "hostID": r.host, "size": r.length}]);
        (one(self.uids), one(self.gids))
    }

    /// Gives a file of the machine's ids to the same ids of the pod.
    pub fn shift_owner(&self, path: &Path, uid: u32, gid: u32) -> Result<()> {
        let shifted = |range: Range, id: u32| {
            (id < range.length)
                .then(|| range.host + id)
                .with_context(|| format!("id {id} of {} is not mapped in the pod", path.display()))
        };
        let (uid, gid) = (shifted(self.uids, uid)?, shifted(self.gids, gid)?);
        chown(path, Some(uid), Some(gid))
            .with_context(|| format!("chown {} to {uid}:{gid}", path.display()))
    }
}

fn bad(why: &str) -> Error {
    Error::invalid(format!(
        "linux.security_context.namespace_options.userns_options: {why}"
    ))
}

/// The one mapping that there may be; it starts at 0.
fn range(field: &str, mappings: &[IdMapping]) -> error::Result<Range> {
    let [one] = mappings else {
        let count = mappings.len();
        return Err(bad(&format!(
            "{field}: one mapping is supported, not {count}"
        )));
    };
    if one.container_id != 0 {
        return Err(bad(&format!("{field}: id 0 of the pod is not mapped")));
    }
    // The last id of all means "no change" (chown(2)) and is never mapped.
    if one.length == 0 || one.host_id.checked_add(one.length).is_none() {
        let (from, length) = (one.host_id, one.length);
        return Err(bad(&format!(
            "{field}: {length} ids from {from} on are no range"
        )));
    }
    Ok(Range {
        host: one.host_id,
        length: one.length,
    })
}

/// The helper and where the namespaces are that it has made.
pub struct Helper {
    child: Child,
    /// Process that is in the namespaces.
    pub pid: u32,
}

impl Helper {
    /// Starts it, writes its maps, and waits until it has made `flags`; where there are arguments for
    /// a first process also a pid namespace with that. `sysctls` are tried from inside.
    pub fn start(
        maps: &IdMaps,
        flags: CloneFlags,
        first: &[String],
        sysctls: &[String],
    ) -> Result<Self> {
        let child = Command::new("/proc/self/exe")
            .arg(COMMAND)
            .args([flags.bits().to_string(), sysctls.len().to_string()])
            .args(sysctls)
            .args(first)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the process that makes the pod's user namespace")?;
        let mut helper = Self { child, pid: 0 };
        match helper.converse(maps) {
            Ok(pid) => {
                helper.pid = pid;
                Ok(helper)
            }
            Err(error) => {
                let said = helper.end();
                Err(error.context(format!("make the pod's user namespace: {}", said.trim())))
            }
        }
    }

    fn converse(&mut self, maps: &IdMaps) -> Result<u32> {
        let output = self
            .child
            .stdout
            .take()
            .context("no pipe from the helper")?;
        let mut lines = BufReader::new(output).lines();
        let mut line = || {
            lines
                .next()
                .context("it ended early")?
                .context("read from it")
        };
        line()?;
        let own = self.child.id();
        for (file, range) in [("uid_map", maps.uids), ("gid_map", maps.gids)] {
            let path = format!("/proc/{own}/{file}");
            let text = format!("0 {} {}\n", range.host, range.length);
            fs::write(&path, &text)
                .with_context(|| format!("write {:?} to {path}", text.trim()))?;
        }
        self.go()?;
        line()?.trim().parse().context("its answer is no process")
    }

    fn go(&mut self) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no pipe to the helper")?;
        input.write_all(b"1").context("tell the helper to go on")
    }

    /// Everything is pinned: lets a first process begin, and the helper end.
    pub fn finish(mut self, shared_pid: bool) -> Result<()> {
        if !shared_pid {
            self.end();
            return Ok(());
        }
        self.go()?;
        init::check(&self.end())
    }

    /// Ends it, and gives what it said of why.
    fn end(&mut self) -> String {
        drop(self.child.stdin.take());
        let mut said = String::new();
        if let Some(mut error) = self.child.stderr.take() {
            // A first process has this pipe too, until it is all that it is to be.
            let _ = error.read_to_string(&mut said);
        }
        let _ = self.child.wait();
        said
    }
}

/// The id that a first process runs as: the highest that every user namespace of this size has.
pub fn last_id(maps: &IdMaps) -> u32 {
    let length = maps.uids.length.min(maps.gids.length);
    init::NOBODY.min(length - 1)
}

/// Is the helper.
pub fn run() -> Result<()> {
    let mut args = std::env::args().skip(2);
    let mut number = || -> Result<i32> {
        let arg = args.next().context("an argument is missing")?;
        arg.parse().with_context(|| format!("{arg:?} is no number"))
    };
    let (flags, count) = (number()?, number()?);
    let sysctls: Vec<_> = args.by_ref().take(count as usize).collect();
    let first: Vec<_> = args.collect();
    unshare(CloneFlags::CLONE_NEWUSER).context("unshare CLONE_NEWUSER")?;
    println!("u");
    let mut go = [0; 1];
    std::io::stdin()
        .read_exact(&mut go)
        .context("the daemon ended before the maps were written")?;
    setgroups(&[]).context("drop groups")?;
    setgid(Gid::from_raw(0)).context("become group 0 of the pod")?;
    setuid(Uid::from_raw(0)).context("become user 0 of the pod")?;
    let flags = CloneFlags::from_bits_retain(flags);
    unshare(flags).with_context(|| format!("unshare {flags:?}"))?;
    for sysctl in sysctls {
        if let Some((path, value)) = sysctl.split_once('=') {
            // The daemon sets it where this is not allowed to, and sees whether it is set.
            let _ = fs::write(path, value);
        }
    }
    if first.is_empty() {
        println!("{}", std::process::id());
        let _ = std::io::stdin().read(&mut go);
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWPID).context("unshare CLONE_NEWPID")?;
    let child = Command::new("/proc/self/exe")
        .args(first)
        .env_clear()
        .stdout(Stdio::null())
        .spawn()
        .context("start the first process of the pod")?;
    println!("{}", child.id());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_cri_api::v1::UserNamespace;

    fn ask(mode: NamespaceMode, mappings: &[(u32, u32, u32)]) -> error::Result<Option<IdMaps>> {
        let all: Vec<_> = mappings
            .iter()
            .map(|(container_id, host_id, length)| IdMapping {
                container_id: *container_id,
                host_id: *host_id,
                length: *length,
            })
            .collect();
        IdMaps::of(&NamespaceOption {
            pid: NamespaceMode::Container as i32,
            userns_options: Some(UserNamespace {
                mode: mode as i32,
                uids: all.clone(),
                gids: all,
            }),
            ..Default::default()
        })
    }

    #[test]
    fn one_mapping_from_zero_on_is_a_user_namespace() {
        let maps = ask(NamespaceMode::Pod, &[(0, 1000, 65536)])
            .unwrap()
            .unwrap();
        assert_eq!((maps.uids.host, maps.gids.length), (1000, 65536));
        assert_eq!(last_id(&maps), 65535);
        assert_eq!(ask(NamespaceMode::Node, &[]).unwrap(), None);
        assert_eq!(IdMaps::of(&NamespaceOption::default()).unwrap(), None);
    }

    #[test]
    fn what_no_namespace_can_be_made_of_is_refused() {
        use NamespaceMode::{Container, Node, Pod, Target};
        let one = (0, 1000, 10);
        for (mode, mappings) in [
            (Pod, &[one, (10, 2000, 10)][..]),
            (Pod, &[]),
            (Pod, &[(1, 1000, 10)]),
            (Pod, &[(0, 1000, 0)]),
            (Pod, &[(0, u32::MAX, 1)]),
            (Node, &[one]),
            (Container, &[]),
            (Target, &[]),
        ] {
            assert!(ask(mode, mappings).is_err(), "{mode:?} {mappings:?}");
        }
    }
}
