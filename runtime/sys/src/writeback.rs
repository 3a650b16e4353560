//! Written pages on their way to the disk, before fsync asks for them (sync_file_range, kernel
//! 2.6.17).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Error, Result};

/// Starts to write a file's bytes from `offset` on, `length` of them or all that follow where it is
/// 0, and does not wait. It makes nothing durable: the file's fsync has to follow, which finds less
/// to do. Where the file system cannot, this is nothing.
pub fn start(file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    call(file, offset, length, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until all of a file's bytes that were on their way are written. An error of the disk may
/// be told here and not by fsync again.
pub fn wait(file: BorrowedFd<'_>) -> Result<()> {
    call(file, 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

fn call(file: BorrowedFd<'_>, offset: u64, length: u64, flags: libc::c_uint) -> Result<()> {
    let (from, bytes) = (offset.cast_signed(), length.cast_signed());
    // SAFETY: the descriptor is open for as long as the borrow lives; no memory is passed.
    let ret = unsafe { libc::sync_file_range(file.as_raw_fd(), from, bytes, flags) };
    if ret == 0 {
        return Ok(());
    }
    let args = format_args!("{offset}, {length}, {flags}");
    let error = Error::last("sync_file_range", args);
    let unknown = [libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP, libc::ESPIPE];
    if unknown.into_iter().any(|code| error.is(code)) {
        return Ok(());
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn files_are_written_and_what_is_no_file_is_left_out() {
        let memory = rustix::fs::memfd_create("written", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = std::fs::File::from(memory.unwrap());
        file.write_all(&vec![7; 70_000]).unwrap();
        start(file.as_fd(), 0, 4096).unwrap();
        start(file.as_fd(), 4096, 0).unwrap();
        wait(file.as_fd()).unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        start(pipe.as_fd(), 0, 0).unwrap();
    }
}
