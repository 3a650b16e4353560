//! A bound on what a container may write: a project quota of XFS or ext4 on its writable layer.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rrun_sys::quota::{limit_project, project_usage, set_project};

use super::{OverlayRootfs, Store};
use crate::error::FileContext;
use crate::{Digest, Error, Result};

/// Projects of ours are above those that people give by hand in /etc/projid.
const FIRST: u32 = 0x4000_0000;
/// Projects that are looked at for a free one.
const TRIES: u32 = 1000;

impl Store {
    /// A project that nobody uses on the file system of `dir`. The caller holds the index lock.
    pub(super) fn free_project(&self, key: &str, dir: &Path) -> Result<u32> {
        let used: BTreeSet<u32> = self
            .rootfs_records()?
            .iter()
            .filter_map(|record| record.project)
            .collect();
        // Another store on the same file system starts elsewhere.
        let place = format!("{} {key}", self.root.display());
        let start = u32::from_str_radix(&Digest::of(place.as_bytes()).hex()[..7], 16)
            .expect("seven hexadecimal digits are a number");
        let file = File::open(dir).at("open", dir)?;
        for n in 0..TRIES {
            let project = FIRST + (start + n) % (FIRST / 2);
            if used.contains(&project) {
                continue;
            }
            match project_usage(file.as_fd(), project) {
                Ok((0, 0)) => return Ok(project),
                Ok(_) => {}
                // The project has no entry yet.
                Err(error) if error.errno().0 == libc_errno::NOENT => return Ok(project),
                Err(error) => return Err(no_quotas(dir, &error)),
            }
        }
        Err(Error::unsupported(
            format!("a quota on {}", dir.display()),
            format!("{TRIES} projects are taken"),
        ))
    }
}

mod libc_errno {
    pub const NOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
}

fn no_quotas(dir: &Path, error: &rrun_sys::Error) -> Error {
    Error::unsupported(
        format!("a quota on {}", dir.display()),
        format!("mount its file system (XFS, ext4) with -o prjquota: {error}"),
    )
}

/// Puts the empty directories of a writable layer under a bound of bytes.
pub(super) fn limit(rootfs: &OverlayRootfs, project: u32, bytes: u64) -> Result<()> {
    for dir in [&rootfs.upper, &rootfs.work] {
        let file = File::open(dir).at("open", dir)?;
        set_project(file.as_fd(), project).map_err(|error| no_quotas(dir, &error))?;
        limit_project(file.as_fd(), project, bytes).map_err(|error| no_quotas(dir, &error))?;
    }
    Ok(())
}

/// Gives a project back. The tree is gone, or its file system is: then so is the quota.
pub(super) fn release(dir: &Path, project: u32) {
    let known = dir.ancestors().find(|dir| dir.exists());
    let lifted = known
        .and_then(|dir| File::open(dir).ok())
        .map(|dir| limit_project(dir.as_fd(), project, 0));
    if let Some(Err(error)) = lifted {
        tracing::debug!("project {project} keeps its limit: {error}");
    }
}
