//! Reading, writing, duplicating and closing descriptors.

use crate::error::Call;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Sets FD_CLOEXEC on every descriptor from `first` up (close_range(2) with
/// CLOSE_RANGE_CLOEXEC, 5.11), so that none leaks into a container (CVE-2024-21626).
pub fn cloexec_from(first: u32) -> Result<()> {
    // SAFETY: marks descriptors close-on-exec; closes none, so no owner is affected.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if ret == 0 {
        return Ok(());
    }
    Err(Error::last(
        "close_range",
        format_args!("{first}, ~0, CLOSE_RANGE_CLOEXEC"),
    ))
}

/// dup2 of `fd` onto standard input, output and error.
pub fn onto_stdio(fd: BorrowedFd<'_>) -> Result<()> {
    for target in 0..3 {
        onto(fd, target)?;
    }
    Ok(())
}

/// dup2 of `fd` onto the number `target`, one of 0, 1, 2.
pub fn onto(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    debug_assert!((0..3).contains(&target));
    // SAFETY: numbers 0 to 2 are the standard streams, which no OwnedFd of this program owns.
    if unsafe { libc::dup2(fd.as_raw_fd(), target) } < 0 {
        return Err(Error::last(
            "dup2",
            format_args!("{}, {target}", fd.as_raw_fd()),
        ));
    }
    Ok(())
}

/// Writes all of `data`.
pub fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(n) => data = &data[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).call("write", format_args!("{} bytes", data.len())),
        }
    }
    Ok(())
}

/// One read(2), repeated when interrupted. 0 at the end.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Ok(n) => return Ok(n),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).call("read", format_args!("fd {}", fd.as_raw_fd())),
        }
    }
}

/// Reads a file of procfs or cgroupfs, whose size stat(2) does not tell: in as few
/// reads as the kernel gives.
pub fn read_file(path: &std::path::Path) -> Result<String> {
    read_in_steps(path, 16 * 1024, 0)
}

/// Reads a file that is small as a rule: what is well below a page comes whole in one
/// read(2) (of procfs and cgroupfs, whose lines are shorter, as of other file systems).
pub fn read_small(path: &std::path::Path) -> Result<String> {
    read_in_steps(path, 4096, WHOLE)
}

/// A read of a page that brings less than this brought the rest.
pub(crate) const WHOLE: usize = 2048;

/// Reads a file of a real file system, whatever its size: one that is as long as fstat(2) says
/// comes in one read(2).
pub fn read_whole(path: &std::path::Path) -> Result<Vec<u8>> {
    let file = crate::path::open(path, libc::O_RDONLY)?;
    let size = rustix::fs::fstat(&file)
        .map(|stat| usize::try_from(stat.st_size).unwrap_or(0))
        .call("fstat", format_args!("{}", path.display()))?;
    // One byte more tells that there is no more.
    let mut data = Vec::with_capacity(size + 1);
    loop {
        data.reserve(1);
        let read = match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut data)) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.call("read", format_args!("{}", path.display()))?,
        };
        if read == 0 || data.len() == size {
            return Ok(data);
        }
    }
}

/// A read of less than `whole` bytes is the last one.
fn read_in_steps(path: &std::path::Path, step: usize, whole: usize) -> Result<String> {
    let file = crate::path::open(path, libc::O_RDONLY)?;
    let mut data = vec![0; step];
    let mut length = 0;
    loop {
        let read = read(std::os::fd::AsFd::as_fd(&file), &mut data[length..])?;
        length += read;
        if read == 0 || read < whole {
            break;
        }
        if data.len() - length < step / 2 {
            data.resize(data.len() + step, 0);
        }
    }
    data.truncate(length);
    Ok(match String::from_utf8(data) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// A pipe, both ends close-on-exec: (read, write).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .call("pipe2", format_args!("O_CLOEXEC"))
}

/// Takes over descriptor `number`, inherited from the parent process, and sets
/// FD_CLOEXEC on it. EBADF when it is not open.
pub fn inherit(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_SETFD on any number is harmless; it fails with EBADF when it is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(Error::last("fcntl", format_args!("{number}, F_SETFD")));
    }
    // SAFETY: it is open, and was given to this process by number for it to own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Clears FD_CLOEXEC on descriptor `number`, so that the next exec passes it on.
pub fn keep_over_exec(number: RawFd) -> Result<()> {
    // SAFETY: changes a flag of a descriptor; memory is not involved.
    if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
        return Err(Error::last("fcntl", format_args!("{number}, F_SETFD, 0")));
    }
    Ok(())
}

/// Standard input, output and error, as far as they are open.
pub fn standard() -> impl Iterator<Item = BorrowedFd<'static>> {
    (0..3).filter_map(|number| {
        // SAFETY: F_GETFD on any number is harmless.
        let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
        // SAFETY: the number is open, and nothing in this program closes 0 to 2.
        open.then(|| unsafe { BorrowedFd::borrow_raw(number) })
    })
}

/// A file without a name, in memory (memfd_create(2)).
pub fn memory_file(name: &str) -> Result<std::fs::File> {
    rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
        .map(Into::into)
        .call("memfd_create", format_args!("{name}"))
}

/// Waits until `fd` is readable (or hung up); false when `limit` passes first.
pub fn wait_readable(fd: BorrowedFd<'_>, limit: Option<std::time::Duration>) -> Result<bool> {
    let mut fds = [rustix::event::PollFd::new(
        &fd,
        rustix::event::PollFlags::IN,
    )];
    let limit = limit.map(|l| rustix::event::Timespec {
        tv_sec: l.as_secs() as i64,
        tv_nsec: l.subsec_nanos().into(),
    });
    loop {
        match rustix::event::poll(&mut fds, limit.as_ref()) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).call("ppoll", format_args!("fd {}", fd.as_raw_fd())),
        }
    }
}

/// Waits until one of `fds` is readable (or hung up), and tells which are.
pub fn wait_any<const N: usize>(fds: [Option<BorrowedFd<'_>>; N]) -> Result<[bool; N]> {
    use rustix::event::{PollFd, PollFlags, poll};
    let given: Vec<(usize, BorrowedFd<'_>)> = fds
        .iter()
        .enumerate()
        .filter_map(|(i, fd)| Some((i, (*fd)?)))
        .collect();
    let mut list: Vec<PollFd<'_>> = given
        .iter()
        .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut list, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).call("ppoll", format_args!("{} descriptors", list.len())),
        }
    }
    let mut ready = [false; N];
    for ((index, _), polled) in given.iter().zip(&list) {
        ready[*index] = !polled.revents().is_empty();
    }
    Ok(ready)
}

/// Closes descriptor `number` in a cloned process, where the value that owns it
/// is its parent's: the copy here is never used nor dropped.
pub fn close_inherited(number: RawFd) -> Result<()> {
    close_range(number as u32, number as u32)
}

/// Closes every descriptor from `first` up, but `keep`. For a cloned process that
/// will execute another program: what it inherited as owned values of its
/// parent's it must not touch any more.
pub fn close_all_but(first: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut from = first;
    for number in numbers.into_iter().filter(|n| *n >= first) {
        if number > from {
            close_range(from, number - 1)?;
        }
        from = number + 1;
    }
    close_range(from, u32::MAX)
}

/// Descriptors that have had their use, closed together: numbers that follow each
/// other in one close_range(2), as most of them do that one function opened.
/// At most [`Used::LIMIT`] stay open.
#[derive(Debug, Default)]
pub struct Used(Vec<OwnedFd>);

impl Used {
    /// How many are kept before they are closed: far below the usual RLIMIT_NOFILE of 1024.
    const LIMIT: usize = 64;

    /// Gives up `fd`.
    pub fn put(&mut self, fd: OwnedFd) {
        self.0.push(fd);
        if self.0.len() >= Self::LIMIT {
            self.close();
        }
    }

    /// Leaves them to [`close_all_but`], which is about to close everything.
    pub fn leave(mut self) {
        for fd in self.0.drain(..) {
            let _ = fd.into_raw_fd();
        }
    }

    /// Closes what was given up.
    pub fn close(&mut self) {
        let mut numbers: Vec<u32> = self.0.drain(..).map(|fd| fd.into_raw_fd() as u32).collect();
        numbers.sort_unstable();
        for run in numbers.chunk_by(|a, b| a + 1 == *b) {
            // Like a drop, it has nobody to tell; each number was an open descriptor.
            let _ = close_range(run[0], run[run.len() - 1]);
        }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.close();
    }
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the caller gives up everything in this range (its documentation says so, or it
    // owned each number in it), so no owner uses a closed number.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    Err(Error::last("close_range", format_args!("{first}, {last}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_descriptors_are_closed_and_no_others() {
        let mut used = Used::default();
        let (kept, _write) = pipe().unwrap();
        let numbers: Vec<i32> = (0..2 * Used::LIMIT + 3)
            .map(|_| {
                let fd = rustix::io::dup(&kept).unwrap();
                let number = fd.as_raw_fd();
                used.put(fd);
                number
            })
            .collect();
        let most = numbers.iter().max().unwrap() - numbers.iter().min().unwrap();
        assert!(
            most < 2 * Used::LIMIT as i32,
            "{most} numbers were in use at once"
        );
        used.leave();
        assert!(rustix::io::fcntl_getfd(&kept).is_ok());
        let mut used = Used::default();
        used.put(rustix::io::dup(&kept).unwrap());
        drop(used);
        assert!(rustix::io::fcntl_getfd(&kept).is_ok());
    }

    #[test]
    fn a_small_file_of_proc_is_read_whole() {
        let path = std::path::Path::new("/proc/self/status");
        assert!(read_small(path).unwrap().contains("\nThreads:"));
        assert!(read_small(std::path::Path::new("/proc/self/none")).is_err());
    }
}
