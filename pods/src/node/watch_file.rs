//! Waits for a file to grow, without asking again and again: inotify.

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

    /// Waits for the next change. Cancel safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.events.readable().await?;
            let mut buffer = [0; 4096];
            match self.events.try_read(&mut buffer) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
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
}
