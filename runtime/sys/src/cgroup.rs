//! What cgroups need of the kernel beside reading and writing files.

use crate::{Errno, Error, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `f_type` of cgroup v1 (CGROUP_SUPER_MAGIC).
pub const V1_MAGIC: u64 = 0x0027_e0eb;
/// `f_type` of cgroup v2 (CGROUP2_SUPER_MAGIC).
pub const V2_MAGIC: u64 = 0x6367_7270;

/// The file system type (`f_type` of statfs(2)) that `path` is on.
pub fn fs_type(path: &Path) -> Result<u64> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        Error::new(
            "statfs",
            format_args!("{}", path.display()),
            Errno(libc::EINVAL),
        )
    })?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `name` ends with NUL and `stat` is valid for writes of a whole struct statfs.
    if unsafe { libc::statfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(Error::last("statfs", format_args!("{}", path.display())));
    }
    // SAFETY: statfs returned 0, so it has filled the struct.
    Ok(unsafe { stat.assume_init() }.f_type as u64)
}

/// Signals one process found in a cgroup's list: kill(2).
pub fn signal(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: kill takes two integers; memory is not involved.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    Err(Error::last("kill", format_args!("{pid}, {signal}")))
}
