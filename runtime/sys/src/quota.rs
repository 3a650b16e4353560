//! Project quotas: how much a directory tree may hold (ext4 since 4.5, XFS).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Error, Result};

const PROJECT: u32 = 2;
const Q_SETQUOTA: u32 = 0x80_0008;
const Q_GETQUOTA: u32 = 0x80_0007;
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
const PROJECT_INHERIT: u32 = 0x200;
const BLOCK: u64 = 1024;

/// struct fsxattr of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    project: u32,
    cow_extsize: u32,
    pad: [u8; 8],
}

/// Puts a directory, and all that will be made below it, into a project.
pub fn set_project(dir: BorrowedFd<'_>, project: u32) -> Result<()> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one struct fsxattr, whose layout `Attributes` has.
    let ret = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    if ret < 0 {
        return Err(Error::last("ioctl", format_args!("FS_IOC_FSGETXATTR")));
    }
    attributes.project = project;
    attributes.xflags |= PROJECT_INHERIT;
    // SAFETY: the kernel reads one struct fsxattr, whose layout `Attributes` has.
    let ret = unsafe { libc::ioctl(dir.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) };
    if ret < 0 {
        return Err(Error::last(
            "ioctl",
            format_args!("FS_IOC_FSSETXATTR, project {project}"),
        ));
    }
    Ok(())
}

/// Sets how many bytes a project may hold on the file system of `fd` (quotactl_fd(2), kernel
/// 5.14); 0 is no limit. ENOSYS or ESRCH where project quotas are off there.
pub fn limit_project(fd: BorrowedFd<'_>, project: u32, bytes: u64) -> Result<()> {
    const QIF_BLIMITS: u32 = 1;
    // SAFETY: all zero is a value of this struct of integers.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    quota.dqb_bhardlimit = bytes.div_ceil(BLOCK);
    quota.dqb_bsoftlimit = quota.dqb_bhardlimit;
    quota.dqb_valid = QIF_BLIMITS;
    call(fd, Q_SETQUOTA, project, &mut quota)
}

/// Bytes that a project holds, and may hold (0 is no limit).
pub fn project_usage(fd: BorrowedFd<'_>, project: u32) -> Result<(u64, u64)> {
    // SAFETY: all zero is a value of this struct of integers.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    call(fd, Q_GETQUOTA, project, &mut quota)?;
    Ok((quota.dqb_curspace, quota.dqb_bhardlimit * BLOCK))
}

fn call(fd: BorrowedFd<'_>, command: u32, project: u32, quota: &mut libc::dqblk) -> Result<()> {
    // SAFETY: `quota` is a live struct if_dqblk for both commands, read by one and written by
    // the other.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fd.as_raw_fd(),
            command << 8 | PROJECT,
            project,
            std::ptr::from_mut(quota),
        )
    };
    if ret < 0 {
        return Err(Error::last(
            "quotactl_fd",
            format_args!("{command:#x}, project {project}"),
        ));
    }
    Ok(())
}
