//! The container's terminal: allocated in its devpts, its master handed out.

use crate::{Context, Error, Result};
use rrun_sys::path::{self, Kind, Make};
use rrun_sys::{fd, mount, tty};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Allocates a terminal in the devpts of `root`, sends its master over `socket`,
/// makes the slave standard input, output and error, and, given `bind`, shows it
/// as /dev/console below that root.
pub fn set_up(
    root: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    size: Option<(u16, u16)>,
    owner: u32,
    bind: bool,
) -> Result<()> {
    let master = open_master(root)?;
    tty::unlock(master.as_fd())?;
    let slave = tty::open_slave(master.as_fd())?;
    let number = tty::number(master.as_fd())?;
    if let Some((columns, rows)) = size {
        tty::set_size(master.as_fd(), columns, rows)?;
    }
    if owner != 0 {
        path::chown_fd(slave.as_fd(), Some(owner), None)?;
    }
    if bind {
        console(root, slave.as_fd()).context("mount /dev/console")?;
    }
    let name = format!("/dev/pts/{number}");
    rrun_sys::socket::send_fds(socket, name.as_bytes(), &[master.as_fd()])
        .context("send the terminal to the console socket")?;
    drop(master);
    rrun_sys::cred::setsid()?;
    fd::onto_stdio(slave.as_fd())?;
    tty::set_controlling(slave.as_fd()).context("set the controlling terminal")
}

/// Opens the multiplexer of the devpts at /dev/pts, and proves it to be one
/// (CVE-2025-52565: an image may have put something else there).
fn open_master(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let open = |flags| path::open_in_root(root, Path::new("/dev/pts/ptmx"), flags);
    let node = open(path::O_PATH | path::O_NOFOLLOW)
        .context("open the container's terminals: does it have a devpts on /dev/pts?")?;
    let stat = path::stat(node.as_fd())?;
    let devpts = path::fs_magic(node.as_fd())? == path::DEVPTS_SUPER_MAGIC;
    if !devpts || stat.kind != Kind::CharDevice || stat.rdev != path::makedev(5, 2) {
        return Err(Error::State(
            "/dev/pts/ptmx of the container is not a terminal multiplexer".into(),
        ));
    }
    let flags = path::O_RDWR | path::O_NOCTTY | path::O_NOFOLLOW;
    let master = open(flags).context("open /dev/pts/ptmx")?;
    let opened = path::stat(master.as_fd())?;
    if (opened.dev, opened.ino) != (stat.dev, stat.ino) {
        return Err(Error::State(
            "/dev/pts/ptmx of the container was exchanged".into(),
        ));
    }
    Ok(master)
}

/// Binds the terminal itself, by descriptor, over /dev/console.
fn console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let tree = mount::clone_tree(slave, c"", false, false)?;
    let dev = path::make_in_root(root, Path::new("/dev"), Make::Dir)?;
    let target = path::make_file_at(dev.as_fd(), Path::new("console"))?;
    if path::stat(target.as_fd())?.kind == Kind::Symlink {
        return Err(Error::State(
            "/dev/console of the container is a symbolic link".into(),
        ));
    }
    Ok(mount::attach(tree.as_fd(), target.as_fd())?)
}
