//! tmpcopyup: what the container has at a directory, copied into the tmpfs that
//! will cover it.

use crate::Result;
use rrun_sys::path::{self, Kind};
use std::fs::File;
use std::io::copy as copy_bytes;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Copies the contents of directory `from` into directory `to`, owners and modes
/// included. Sockets and fifos are left out, as they have no contents.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    for name in path::list(from)? {
        let name = Path::new(&name);
        let source = path::open_at(from, name, path::O_PATH | path::O_NOFOLLOW)?;
        let stat = path::stat(source.as_fd())?;
        match stat.kind {
            Kind::Dir => {
                path::mkdir_at(to, name, 0o700)?;
                let target = path::open_at(to, name, path::O_DIRECTORY | path::O_NOFOLLOW)?;
                copy(source.as_fd(), target.as_fd())?;
            }
            Kind::Symlink => path::symlink(&path::read_link_at(from, name)?, to, name)?,
            Kind::File => {
                let mut source = File::from(path::open_at(from, name, path::O_NOFOLLOW)?);
                let mut target = File::from(path::create_at(to, name, 0o600)?);
                copy_bytes(&mut source, &mut target)
                    .map_err(|e| crate::Error::file("copy", name, e))?;
            }
            Kind::CharDevice => path::mknod(to, name, path::S_IFCHR, 0o600, stat.rdev)?,
            Kind::BlockDevice => path::mknod(to, name, path::S_IFBLK, 0o600, stat.rdev)?,
            Kind::Fifo | Kind::Other => continue,
        }
        path::chown_at(to, name, stat.uid, stat.gid)?;
        if stat.kind != Kind::Symlink {
            path::chmod_at(to, name, stat.mode)?;
        }
    }
    Ok(())
}
