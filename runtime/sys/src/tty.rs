//! Pseudo terminals.

use crate::error::Call;
use crate::{Error, Result};
use rustix::termios::Winsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    rustix::termios::isatty(fd)
}

/// The number N of /dev/pts/N of a master (TIOCGPTN).
pub fn number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int to `number`.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) } != 0 {
        return Err(Error::last("ioctl", format_args!("TIOCGPTN")));
    }
    Ok(number)
}

/// Unlocks the slave of `master` (TIOCSPTLCK).
pub fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let zero: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const zero) } != 0 {
        return Err(Error::last("ioctl", format_args!("TIOCSPTLCK")));
    }
    Ok(())
}

/// Opens the slave of `master` without a path (TIOCGPTPEER, 4.13), so that
/// nothing in a container can stand in for it.
pub fn open_slave(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(Error::last("ioctl", format_args!("TIOCGPTPEER")));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `slave` the controlling terminal of this session.
pub fn set_controlling(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(Error::last("ioctl", format_args!("TIOCSCTTY")));
    }
    Ok(())
}

/// Sets the window size in characters.
pub fn set_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(fd, size).call("ioctl", format_args!("TIOCSWINSZ"))
}

/// Gives `to` the window size of `from`.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let size = rustix::termios::tcgetwinsize(from).call("ioctl", format_args!("TIOCGWINSZ"))?;
    rustix::termios::tcsetwinsize(to, size).call("ioctl", format_args!("TIOCSWINSZ"))
}

/// Clears ONLCR of the terminal: whoever relays it to another terminal leaves
/// the line ends to that one.
pub fn clear_onlcr(fd: BorrowedFd<'_>) -> Result<()> {
    let mut settings =
        rustix::termios::tcgetattr(fd).call("tcgetattr", format_args!("terminal"))?;
    settings
        .output_modes
        .remove(rustix::termios::OutputModes::ONLCR);
    rustix::termios::tcsetattr(fd, rustix::termios::OptionalActions::Now, &settings)
        .call("tcsetattr", format_args!("-onlcr"))
}

/// Settings of a terminal in raw mode, restored when dropped.
#[derive(Debug)]
pub struct Raw {
    fd: OwnedFd,
    saved: rustix::termios::Termios,
}

impl Raw {
    /// Puts the terminal `fd` into raw mode.
    pub fn enter(fd: BorrowedFd<'_>) -> Result<Self> {
        let fd = fd
            .try_clone_to_owned()
            .map_err(|e| Error::io("dup", format_args!("terminal"), &e))?;
        let saved = rustix::termios::tcgetattr(&fd).call("tcgetattr", format_args!("terminal"))?;
        let mut raw = saved.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&fd, rustix::termios::OptionalActions::Now, &raw)
            .call("tcsetattr", format_args!("raw"))?;
        Ok(Self { fd, saved })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell.
        let _ = rustix::termios::tcsetattr(
            self.fd.as_fd(),
            rustix::termios::OptionalActions::Now,
            &self.saved,
        );
    }
}
