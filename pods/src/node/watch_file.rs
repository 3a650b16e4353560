//! Waits for a file to grow or to appear, without asking again and again: inotify.

use std::io;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe;

/// A file whose changes are told.
pub struct Watched {
    // What an inotify descriptor gives is read as a pipe is; what it says is of no matter here.
    events: pipe::Receiver,
}

impl Watched {
    /// Watches `path` from now on.
    pub fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, path, WatchFlags::MODIFY | WatchFlags::MOVE_SELF)?;
        Ok(Self {
            events: pipe::Receiver::from_owned_fd_unchecked(fd)?,
        })
    }

    /// Watches what is made, written, moved or removed in a directory from now on.
    pub fn directory(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, path, flags)?;
        Ok(Self {
            events: pipe::Receiver::from_owned_fd_unchecked(fd)?,
        })
    }

    /// Waits for the next change. Cancel safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        next(&self.events).await
    }
}

/// Something happened; a burst is one.
async fn next(events: &pipe::Receiver) -> io::Result<()> {
    loop {
        events.readable().await?;
        let mut buffer = [0; 4096];
        match events.try_read(&mut buffer) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A path at which something is to appear, whose directory may have yet to be made.
pub struct Appearance {
    events: Option<pipe::Receiver>,
}

impl Appearance {
    /// Watches from now on the directory of `path`, or the nearest one above it that is there.
    pub fn of(path: &Path) -> Self {
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        let watch = || {
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
            let mut above = path.ancestors().skip(1);
            above.find(|dir| inotify::add_watch(&fd, *dir, flags | WatchFlags::ONLYDIR).is_ok())?;
            pipe::Receiver::from_owned_fd_unchecked(fd).ok()
        };
        Self { events: watch() }
    }

    /// Waits until something was made there, or in a directory above; for ever where nothing can
    /// be watched. Cancel safe.
    pub async fn changed(&mut self) {
        if let Some(events) = &self.events
            && next(events).await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn a_file_that_grows_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut watched = Watched::new(file.path()).unwrap();
        file.write_all(b"x").unwrap();
        watched.changed().await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_appears_is_told_even_in_a_directory_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/cri.sock");
        let mut above = Appearance::of(&path);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        above.changed().await;
        let mut beside = Appearance::of(&path);
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        beside.changed().await;
    }
}
