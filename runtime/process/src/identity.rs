//! Who the process becomes.

use crate::{Error, Program, Result, Sets, Told};
use rrun_sys::{cred, fd, path};
use std::fmt;
use std::path::Path;

/// Whom the process becomes, and what it will execute (runtime-spec, config.md#process).
#[derive(Debug)]
pub struct Identity<'a> {
    /// `process.user.uid`.
    pub uid: u32,
    /// `process.user.gid`.
    pub gid: u32,
    /// `process.user.umask`; 022 where it is not given.
    pub umask: Option<u32>,
    /// `process.user.additionalGids`; `None` to keep the caller's.
    pub groups: Option<&'a [u32]>,
    /// `process.cwd`.
    pub cwd: &'a Path,
    /// `process.capabilities`. None named means none, as with runc and crun.
    pub sets: Sets,
    /// `process.noNewPrivileges`.
    pub no_new_privileges: bool,
    /// `process.env`.
    pub env: &'a [String],
    /// `process.args`.
    pub args: &'a [String],
}

impl Identity<'_> {
    /// Takes it on, in an order in which each step still has the rights it needs; `load` loads
    /// the seccomp filter, if there is one. What is left out by a rule is told by `warn`.
    pub fn take<E: From<Error>>(
        &self,
        load: impl FnOnce() -> std::result::Result<(), E>,
        warn: &dyn Fn(fmt::Arguments<'_>),
    ) -> std::result::Result<Program, E> {
        own_stdio(self.uid).told("give standard streams to the user")?;
        let mut load = Some(load);
        if self.no_new_privileges {
            cred::set_no_new_privs().told("set process.noNewPrivileges")?;
        } else if let Some(load) = load.take() {
            // Needs CAP_SYS_ADMIN, which is about to go.
            load()?;
        }
        self.become_user(warn)?;
        let program = Program::find(self.args, self.env, self.uid)?;
        if let Some(load) = load {
            // As late as there is somebody to hand a listener to; hooks are under it.
            load()?;
        }
        Ok(program)
    }

    /// Bounding set, groups, ids, working directory, the other capability sets.
    fn become_user(&self, warn: &dyn Fn(fmt::Arguments<'_>)) -> Result<()> {
        self.sets.drop_bounding()?;
        cred::set_keepcaps(true).told("keep capabilities")?;
        cred::umask(self.umask.unwrap_or(0o022));
        if let Some(groups) = self.groups {
            set_groups(groups)?;
        }
        // Some directories are open to root only, others to the user only.
        let early = enter_directory(self.cwd);
        cred::set_gid(self.gid).told("process.user.gid")?;
        cred::set_uid(self.uid).told("process.user.uid")?;
        if early.is_err() {
            enter_directory(self.cwd)?;
        }
        self.sets.apply(warn).told("apply capabilities")
    }
}

fn set_groups(groups: &[u32]) -> Result<()> {
    match cred::set_groups(groups) {
        Err(e) if e.is(path::EPERM) && setgroups_denied() => {
            if groups.is_empty() {
                return Ok(());
            }
            let why = "cannot be set: setgroups is denied in this user namespace";
            Err(Error::of("process.user.additionalGids", &why))
        }
        result => result.told("process.user.additionalGids"),
    }
}

/// Whether setgroups(2) was given up for a single-id map (user_namespaces(7)).
fn setgroups_denied() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"))
}

/// Standard streams belong to the user of the process, unless they are the null
/// device or somebody else's business (a read-only file system, a socket).
fn own_stdio(uid: u32) -> rrun_sys::Result<()> {
    if uid == 0 {
        return Ok(());
    }
    for stream in fd::standard() {
        let Ok(stat) = path::stat(stream) else {
            continue;
        };
        if stat.rdev == path::makedev(1, 3) || stat.uid == uid {
            continue;
        }
        match path::chown_fd(stream, Some(uid), None) {
            Err(e) if e.is(path::EINVAL) || e.is(path::EPERM) || e.is(path::EROFS) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Changes to `process.cwd`, and proves that it lies inside the root: a leaked
/// descriptor as the directory would be a way out (CVE-2024-21626).
fn enter_directory(cwd: &Path) -> Result<()> {
    std::env::set_current_dir(cwd).told(&format!("process.cwd: chdir to cwd {}", cwd.display()))?;
    if path::cwd_is_inside_root() {
        return Ok(());
    }
    Err(Error("current working directory is outside of container mount namespace root -- possible container breakout detected".into()))
}
