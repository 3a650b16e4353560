//! Directories below a root, reached by descriptors alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::path;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// Directories that an archive nests deeper than this are opened anew for every entry.
const DEPTH: usize = 64;

/// The directories on the way to the last one asked for, kept open: archives go through a tree
/// in order, so nearly every entry finds its directory on top.
pub(super) struct Dirs {
    root: OwnedFd,
    stack: Vec<(Vec<u8>, OwnedFd)>,
}

/// What is done where a directory on the way is missing.
pub(super) type OnMissing<'a> = &'a mut dyn FnMut(&[Vec<u8>]);

impl Dirs {
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root,
            stack: Vec::new(),
        }
    }

    /// Forgets what is open, after a directory was replaced.
    pub fn forget(&mut self) {
        self.stack.clear();
    }

    /// Opens an existing directory.
    pub fn open(&mut self, components: &[Vec<u8>]) -> io::Result<BorrowedFd<'_>> {
        self.walk(components, None)
    }

    /// Opens a directory and makes what is missing on the way, telling `made` of each.
    pub fn open_or_make(
        &mut self,
        components: &[Vec<u8>],
        made: OnMissing<'_>,
    ) -> io::Result<BorrowedFd<'_>> {
        self.walk(components, Some(made))
    }

    fn walk(
        &mut self,
        components: &[Vec<u8>],
        mut made: Option<OnMissing<'_>>,
    ) -> io::Result<BorrowedFd<'_>> {
        let known = self
            .stack
            .iter()
            .zip(components)
            .take_while(|(open, c)| open.0 == **c)
            .count();
        self.stack.truncate(known);
        let mut deep: Option<OwnedFd> = None;
        for (depth, name) in components.iter().enumerate().skip(known) {
            let parent = match (&deep, self.stack.last()) {
                (Some(fd), _) | (None, Some((_, fd))) => fd.as_fd(),
                (None, None) => self.root.as_fd(),
            };
            let so_far = &components[..=depth];
            let made = made.as_mut().map(|made| &mut **made as OnMissing<'_>);
            let fd = self.step(parent, so_far, made)?;
            if self.stack.len() < DEPTH && deep.is_none() {
                self.stack.push((name.clone(), fd));
            } else {
                deep = Some(fd);
            }
        }
        if let Some(fd) = deep {
            // Kept as the top under a name that no component has.
            self.stack.truncate(DEPTH - 1);
            self.stack.push((vec![0], fd));
        }
        Ok(self
            .stack
            .last()
            .map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }
    /// Opens the last directory of a path in the one before it, and makes it where it is missing.
    fn step(
        &self,
        parent: BorrowedFd<'_>,
        path: &[Vec<u8>],
        made: Option<OnMissing<'_>>,
    ) -> io::Result<OwnedFd> {
        let name = path.last().expect("a step has a name").as_slice();
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Ok(match (openat(parent, name, flags, Mode::empty()), made) {
            (Err(Errno::NOENT), Some(made)) => {
                mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                made(path);
                openat(parent, name, flags, Mode::empty())?
            }
            // A link that an earlier entry made: followed, but never out of the root.
            (Err(Errno::LOOP | Errno::NOTDIR), _) => {
                let path = path::join(path);
                let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                let path = path.as_slice();
                openat2(&self.root, path, DIRECTORY, Mode::empty(), within)?
            }
            (other, _) => other?,
        })
    }
}
