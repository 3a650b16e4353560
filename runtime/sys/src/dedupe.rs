//! Files that share their blocks (FIDEDUPERANGE, kernel 4.5: XFS with reflink, btrfs, …).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Errno;
use crate::{Error, Result};

/// `_IOWR(0x94, 54, struct file_dedupe_range)` of linux/fs.h, 24 bytes without its array.
const FIDEDUPERANGE: libc::Ioctl = 0xc018_9436_u32 as libc::Ioctl;
const SAME: i32 = 0;
const DIFFERS: i32 = 1;

/// struct file_dedupe_range with one struct file_dedupe_range_info.
#[repr(C)]
struct Request {
    source_offset: u64,
    length: u64,
    count: u16,
    reserved1: u16,
    reserved2: u32,
    target: i64,
    target_offset: u64,
    shared: u64,
    status: i32,
    reserved3: u32,
}

/// Lets two files share the blocks of `length` bytes from `offset` on, the same in both. The
/// kernel compares them first, while nobody can write them. Gives how many bytes are shared now,
/// which may be fewer than were asked for (file systems take 16 MiB at once), and 0 where the
/// files differ there.
///
/// The range must begin and end with a block, or end with both files. `target` may be open for
/// reading alone where the caller owns it. EOPNOTSUPP, EINVAL or ENOTTY where the file system shares
/// no blocks, EXDEV for two file systems.
pub fn share_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    offset: u64,
    length: u64,
) -> Result<u64> {
    let mut request = Request {
        source_offset: offset,
        length,
        count: 1,
        reserved1: 0,
        reserved2: 0,
        target: i64::from(target.as_raw_fd()),
        target_offset: offset,
        shared: 0,
        status: 0,
        reserved3: 0,
    };
    let what = format!("FIDEDUPERANGE, {length} bytes");
    // SAFETY: the kernel reads and writes one struct file_dedupe_range with as many entries as
    // `count` says, which is one; `Request` has its layout and lives until the call is over.
    let ret = unsafe { libc::ioctl(source.as_raw_fd(), FIDEDUPERANGE, &raw mut request) };
    if ret < 0 {
        return Err(Error::last("ioctl", format_args!("{what}")));
    }
    match request.status {
        SAME => Ok(request.shared),
        DIFFERS => Ok(0),
        negative => Err(Error::new(
            "ioctl",
            format_args!("{what}"),
            Errno(-negative),
        )),
    }
}
