//! Being told of changes: inotify(7) and eventfd(2).

use crate::Result;
use crate::error::Call;
use rustix::event::EventfdFlags;
use rustix::fs::inotify;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Watches files for being written.
#[derive(Debug)]
pub struct Watcher(OwnedFd);

impl Watcher {
    /// One without watches.
    pub fn new() -> Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        inotify::init(flags)
            .map(Self)
            .call("inotify_init1", format_args!("IN_CLOEXEC"))
    }

    /// Adds a file. cgroup v2 tells so of its `*.events` files.
    pub fn watch_modified(&self, path: &Path) -> Result<()> {
        inotify::add_watch(&self.0, path, inotify::WatchFlags::MODIFY)
            .map(|_| ())
            .call(
                "inotify_add_watch",
                format_args!("{}, IN_MODIFY", path.display()),
            )
    }

    /// Forgets what has happened until now; the descriptor is readable again after
    /// the next change.
    pub fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        while reader.next().is_ok() {}
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A counter that the kernel adds to (cgroup v1's `cgroup.event_control`).
pub fn eventfd() -> Result<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .call("eventfd2", format_args!("EFD_CLOEXEC"))
}
