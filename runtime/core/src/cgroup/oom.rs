//! Being told that the kernel killed a process for want of memory.

use super::Cgroup;
use super::write::get;
use crate::{Error, Result};
use rrun_sys::event::{Watcher, eventfd};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A process was killed.
    Oom,
    /// No process is left, or the cgroup is gone.
    Gone,
    /// The time is over.
    Timeout,
}

/// Waits for such events in one cgroup.
#[derive(Debug)]
pub struct Monitor {
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// v1: an eventfd registered in `cgroup.event_control`, which the kernel also
    /// signals when the cgroup is removed.
    Legacy { control: PathBuf, counter: OwnedFd },
    /// v2: inotify on `memory.events` and `cgroup.events`.
    Unified {
        dir: PathBuf,
        watcher: Watcher,
        kills: u64,
    },
}

impl Cgroup {
    /// A monitor of this cgroup's memory controller.
    pub fn oom_monitor(&self) -> Result<Monitor> {
        let source = match (self.dir_of("memory"), &self.unified) {
            (Some(dir), _) => legacy(dir)?,
            (None, Some(dir)) if self.legacy.is_empty() => unified(dir)?,
            _ => return Err(Error::Unsupported("memory controller missing".into())),
        };
        Ok(Monitor { source })
    }
}

fn legacy(dir: &Path) -> Result<Source> {
    let path = dir.join("memory.oom_control");
    let file = File::open(&path).map_err(|e| Error::file("open", path, e))?;
    let counter = eventfd()?;
    let control = dir.join("cgroup.event_control");
    let line = format!("{} {}", counter.as_raw_fd(), file.as_raw_fd());
    super::write::put(dir, "cgroup.event_control", &line)
        .map_err(|e| Error::file("write", &control, e))?;
    Ok(Source::Legacy { control, counter })
}

fn unified(dir: &Path) -> Result<Source> {
    let watcher = Watcher::new()?;
    watcher.watch_modified(&dir.join("memory.events"))?;
    watcher.watch_modified(&dir.join("cgroup.events"))?;
    let kills = value(dir, "memory.events", "oom_kill").unwrap_or(0);
    Ok(Source::Unified {
        dir: dir.to_owned(),
        watcher,
        kills,
    })
}

fn value(dir: &Path, file: &str, key: &str) -> Option<u64> {
    let text = get(dir, file).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

impl Monitor {
    /// Waits for the next event, at most `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Event> {
        let end = std::time::Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if !rrun_sys::fd::wait_readable(self.fd(), Some(left))? {
                return Ok(Event::Timeout);
            }
            if let Some(event) = self.look()? {
                return Ok(event);
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Legacy { counter, .. } => counter.as_fd(),
            Source::Unified { watcher, .. } => watcher.as_fd(),
        }
    }

    /// What has happened; `None` when it is nothing of interest.
    fn look(&mut self) -> Result<Option<Event>> {
        match &mut self.source {
            Source::Legacy { control, counter } => {
                rrun_sys::fd::read(counter.as_fd(), &mut [0; 8])?;
                Ok(Some(if control.exists() {
                    Event::Oom
                } else {
                    Event::Gone
                }))
            }
            Source::Unified {
                dir,
                watcher,
                kills,
            } => {
                watcher.drain();
                let now = value(dir, "memory.events", "oom_kill");
                if now.is_some_and(|now| now > *kills) {
                    *kills = now.unwrap_or(*kills);
                    return Ok(Some(Event::Oom));
                }
                let populated = value(dir, "cgroup.events", "populated").unwrap_or(0);
                Ok((populated == 0).then_some(Event::Gone))
            }
        }
    }
}
