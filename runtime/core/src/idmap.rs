//! What only the parent may write about its child: id maps, the OOM score.

use crate::plan::{Namespaces, namespaces};
use crate::{Context, Error, Result};
use rrun_sys::process::{self, Clone};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

/// Writes uid_map, gid_map and setgroups of process `pid`. Without the right to
/// write several ranges the set-uid programs newuidmap and newgidmap do it.
pub fn write_maps(pid: i32, namespaces: &Namespaces) -> Result<()> {
    if rrun_sys::cred::is_root() {
        write(pid, "uid_map", &namespaces.uid_map)?;
        return write(pid, "gid_map", &namespaces.gid_map);
    }
    if write(pid, "uid_map", &namespaces.uid_map).is_err() {
        helper("newuidmap", pid, &namespaces.uid_map)?;
    }
    // One's own group alone may be mapped once setgroups is given up (user_namespaces(7)).
    if namespaces.gid_map.lines().count() == 1 && is_own_group(&namespaces.gid_map) {
        write(pid, "setgroups", "deny")?;
        return write(pid, "gid_map", &namespaces.gid_map);
    }
    helper("newgidmap", pid, &namespaces.gid_map)
}

fn is_own_group(map: &str) -> bool {
    let mut fields = map.split_ascii_whitespace().skip(1).map(str::parse::<u32>);
    fields.next() == Some(Ok(rrun_sys::cred::egid())) && fields.next() == Some(Ok(1))
}

fn write(pid: i32, name: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::write(&path, text)
        .map_err(|e| Error::file("write", path, e))
        .with_context(|| format!("set {name} to {:?}", text.trim_end()))
}

fn helper(program: &str, pid: i32, map: &str) -> Result<()> {
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(map.split_ascii_whitespace())
        .output()
        .map_err(|e| Error::file("exec", program, e))
        .with_context(|| format!("{program} is needed to map ranges of ids without root"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::Remote(format!(
        "{program}: {}: check /etc/subuid and /etc/subgid",
        text.trim_end()
    )))
}

/// A user namespace with these maps, held by nothing but the descriptor: for
/// id-mapped mounts.
pub fn user_namespace(uid_map: &str, gid_map: &str) -> Result<OwnedFd> {
    let (ours, theirs) = crate::sync::pair()?;
    let (pid, pidfd) = match process::clone3(namespaces::USER, None)? {
        Clone::Child => {
            drop(ours);
            // Until the parent closes its end.
            let _ = theirs.receive();
            process::exit_now(0)
        }
        Clone::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let maps = Namespaces {
        uid_map: uid_map.to_owned(),
        gid_map: gid_map.to_owned(),
        ..Namespaces::default()
    };
    // In a pid namespace of its own the caller knows the child by another number than /proc.
    let namespace = process::pid_in_proc(&pidfd)
        .map_err(Error::from)
        .and_then(|number| write_maps(number, &maps).and_then(|()| of_process(number)));
    drop(ours);
    process::wait(pid, false)?;
    namespace
}

/// The user namespace of process `pid`.
pub fn of_process(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    Ok(rrun_sys::path::open(
        Path::new(&path),
        rrun_sys::path::O_RDONLY,
    )?)
}

/// Writes `process.oomScoreAdj`.
pub fn oom_score(pid: i32, score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, score.to_string()) {
        // Only CAP_SYS_RESOURCE may lower it: rootless callers cannot (runc's rule).
        Err(e)
            if e.kind() == std::io::ErrorKind::PermissionDenied && !rrun_sys::cred::is_root() =>
        {
            crate::warning!("oomScoreAdj {score} is left out: lowering it needs CAP_SYS_RESOURCE");
            Ok(())
        }
        result => result
            .map_err(|e| Error::file("write", path, e))
            .with_context(|| {
                format!("set process.oomScoreAdj to {score} (lowering it needs CAP_SYS_RESOURCE)")
            }),
    }
}
