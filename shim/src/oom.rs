//! Out of memory: an eventfd on `memory.oom_control` (version 1), inotify on `memory.events`
//! (version 2). Both only wake; how many were killed is read from the cgroup.

use crate::cgroup::Cgroup;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::inotify;
use std::fs::{self, File};
use std::io;

/// A watch on one cgroup's memory.
pub struct Watch {
    /// Readable when something happened.
    pub fd: OwnedFd,
    /// Kills known of.
    pub seen: u64,
}

impl Watch {
    /// Watches a cgroup; `None` where it has no memory controller.
    pub fn new(cgroup: &Cgroup) -> io::Result<Option<Self>> {
        let fd = if let Some(dir) = &cgroup.unified {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let fd = inotify::init(flags)?;
            let file = dir.join("memory.events");
            if !file.exists() {
                return Ok(None);
            }
            inotify::add_watch(&fd, &file, inotify::WatchFlags::MODIFY)?;
            fd
        } else if let Some(dir) = cgroup.controller("memory") {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let control = File::open(dir.join("memory.oom_control"))?;
            let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
            fs::write(dir.join("cgroup.event_control"), line)?;
            fd
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            fd,
            seen: cgroup.oom_kills(),
        }))
    }

    /// Takes the events that are there; whether a process was killed that was not known of.
    pub fn take(&mut self, cgroup: &Cgroup) -> bool {
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|n| n > 0) {}
        let now = cgroup.oom_kills();
        now > std::mem::replace(&mut self.seen, now)
    }
}
