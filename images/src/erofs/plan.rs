//! What a tree holds, and where each part of it goes in the image.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::layout::{self, BLOCK, Data, FIRST, INODE, SLOT};

/// An inode of the tree.
pub(super) struct Node {
    /// Its first name, below the root.
    pub path: PathBuf,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    /// Bytes of its data.
    pub size: u64,
    /// As [`layout::xattrs`] has them.
    pub xattrs: Vec<u8>,
    pub content: Content,
    /// Where it is in the image.
    pub offset: u64,
    pub data: Data,
}

/// What an inode's data is.
pub(super) enum Content {
    File,
    Link(Vec<u8>),
    /// Names and the numbers of their nodes, sorted; with the number of the directory above.
    Directory(Vec<(Vec<u8>, usize)>, usize),
    Nothing,
}

impl Node {
    /// Its number in the file system.
    pub fn nid(&self) -> u64 {
        self.offset / SLOT
    }

    /// File type in directories.
    pub fn kind(&self) -> u8 {
        match self.mode & 0o17_0000 {
            0o10_0000 => 1,
            0o04_0000 => 2,
            0o02_0000 => 3,
            0o06_0000 => 4,
            0o01_0000 => 5,
            0o14_0000 => 6,
            _ => 7,
        }
    }
}

/// The whole image: nodes in the order of their inodes, the root first.
pub(super) struct Plan {
    pub nodes: Vec<Node>,
    /// First block of data.
    pub data_start: u32,
    /// Blocks in all.
    pub blocks: u32,
}

impl Plan {
    pub fn of(root: &Path) -> io::Result<Self> {
        let mut walk = Walk {
            root,
            nodes: Vec::new(),
            known: HashMap::new(),
        };
        walk.tree()?;
        let mut plan = Self {
            nodes: walk.nodes,
            data_start: 0,
            blocks: 0,
        };
        plan.place()?;
        Ok(plan)
    }

    /// Gives every inode its place, then every block of data.
    fn place(&mut self) -> io::Result<()> {
        let mut at = FIRST;
        for node in &mut self.nodes {
            let head = INODE + node.xattrs.len() as u64;
            // What is short lies behind its inode, in the same block.
            let inline = node.size > 0 && head + node.size <= BLOCK;
            let whole = if inline {
                head + node.size
            } else {
                head.min(BLOCK)
            };
            if at % BLOCK + whole > BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            node.offset = at;
            if inline {
                node.data = Data::Inline(0);
            }
            at = (at + if inline { whole } else { head }).next_multiple_of(SLOT);
        }
        let mut block = at.div_ceil(BLOCK);
        self.data_start = number(block)?;
        for node in &mut self.nodes {
            if let Data::Blocks(start) = &mut node.data {
                *start = number(block)?;
                block += node.size.div_ceil(BLOCK);
            }
        }
        self.blocks = number(block)?;
        Ok(())
    }
}

fn number(block: u64) -> io::Result<u32> {
    u32::try_from(block).map_err(|_| io::Error::other("an erofs image has at most 16 TiB"))
}

struct Walk<'a> {
    root: &'a Path,
    nodes: Vec<Node>,
    /// Inodes with several names.
    known: HashMap<u64, usize>,
}

impl Walk<'_> {
    /// Breadth first: a directory's entries lie together.
    fn tree(&mut self) -> io::Result<()> {
        self.node(PathBuf::new(), 0)?;
        let mut at = 0;
        while at < self.nodes.len() {
            if matches!(self.nodes[at].content, Content::Directory(..)) {
                self.directory(at).map_err(|error| {
                    let path = self.nodes[at].path.display();
                    io::Error::new(error.kind(), format!("{path}: {error}"))
                })?;
            }
            at += 1;
        }
        Ok(())
    }

    fn directory(&mut self, at: usize) -> io::Result<()> {
        let path = self.nodes[at].path.clone();
        let mut names: Vec<OsString> = fs::read_dir(self.root.join(&path))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        let mut children = Vec::with_capacity(names.len());
        let mut subdirectories = 0;
        for name in names {
            let child = self.node(path.join(&name), at)?;
            subdirectories += u32::from(self.nodes[child].kind() == 2);
            children.push((name.into_vec(), child));
        }
        let lengths = sorted_with_dots(&children)
            .into_iter()
            .map(|(name, _)| name.len());
        let node = &mut self.nodes[at];
        node.size = layout::directory_size(lengths);
        node.data = Data::Blocks(0);
        node.links = 2 + subdirectories;
        if let Content::Directory(entries, _) = &mut node.content {
            *entries = children;
        }
        Ok(())
    }

    fn node(&mut self, path: PathBuf, above: usize) -> io::Result<usize> {
        let full = self.root.join(&path);
        let meta = fs::symlink_metadata(&full)?;
        let several = meta.nlink() > 1 && !meta.is_dir();
        if several && let Some(&known) = self.known.get(&meta.ino()) {
            self.nodes[known].links += 1;
            return Ok(known);
        }
        let kind = meta.file_type();
        let (size, content, data) = if kind.is_dir() {
            (0, Content::Directory(Vec::new(), above), Data::Blocks(0))
        } else if kind.is_file() && meta.len() > 0 {
            (meta.len(), Content::File, Data::Blocks(0))
        } else if kind.is_symlink() {
            let target = fs::read_link(&full)?.into_os_string().into_vec();
            (target.len() as u64, Content::Link(target), Data::Blocks(0))
        } else {
            let device = kind.is_char_device() || kind.is_block_device();
            let number = meta.rdev();
            let number = layout::device(rustix::fs::major(number), rustix::fs::minor(number));
            let data = Data::None(if device { number } else { 0 });
            (0, Content::Nothing, data)
        };
        let xattrs = layout::xattrs(&attributes(&full)?)
            .map_err(|why| io::Error::other(format!("{}: {why}", path.display())))?;
        let number = self.nodes.len();
        if several {
            self.known.insert(meta.ino(), number);
        }
        self.nodes.push(Node {
            path,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec() as u32),
            links: 1,
            size,
            xattrs,
            content,
            offset: 0,
            data,
        });
        Ok(number)
    }
}

/// A directory's names with "." and "..", which are `None` and the directory itself.
pub(super) fn sorted_with_dots(children: &[(Vec<u8>, usize)]) -> Vec<(&[u8], Option<usize>)> {
    let named = children.iter().map(|(name, n)| (name.as_slice(), Some(*n)));
    let mut all: Vec<_> = named.collect();
    for dots in [&b"."[..], b".."] {
        let at = all.partition_point(|(name, _)| *name < dots);
        all.insert(at, (dots, None));
    }
    all
}

/// Extended attributes, sorted. The label that SELinux gives files of the store is not the layer's.
fn attributes(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // The kernel's own limit.
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for name in names[..length].split(|&b| b == 0) {
        if name.is_empty() || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/short"), "text").unwrap();
        fs::write(dir.path().join("long"), vec![1; 10_000]).unwrap();
        fs::hard_link(dir.path().join("long"), dir.path().join("d/same")).unwrap();
        std::os::unix::fs::symlink("long", dir.path().join("-link")).unwrap();
        dir
    }

    #[test]
    fn every_part_has_a_place_of_its_own() {
        let dir = tree();
        let plan = Plan::of(dir.path()).unwrap();
        assert_eq!(plan.nodes.len(), 5, "a file with two names is one");
        let long = plan.nodes.iter().find(|n| n.size == 10_000).unwrap();
        assert_eq!((long.links, long.data), (2, Data::Blocks(plan.data_start)));
        assert_eq!(plan.blocks, plan.data_start + 3);
        assert_eq!((plan.nodes[0].offset, plan.nodes[0].links), (FIRST, 3));
        let mut end = FIRST;
        for node in &plan.nodes {
            assert!(node.offset >= end && node.offset % SLOT == 0);
            let inline = matches!(node.data, Data::Inline(_));
            let size = INODE + node.xattrs.len() as u64 + if inline { node.size } else { 0 };
            assert!(!inline || node.offset / BLOCK == (node.offset + size - 1) / BLOCK);
            end = node.offset + size;
        }
        assert!(end <= u64::from(plan.data_start) * BLOCK);
    }

    #[test]
    fn dots_are_sorted_among_the_names() {
        let children = [(b"-".to_vec(), 1), (b"..a".to_vec(), 2), (b"b".to_vec(), 3)];
        let names: Vec<_> = sorted_with_dots(&children)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, [&b"-"[..], b".", b"..", b"..a", b"b"]);
    }

    #[test]
    fn attributes_come_along() {
        let dir = tree();
        let file = dir.path().join("d/short");
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(&file, "user.a", b"1", flags).is_err() {
            eprintln!("skipped: no user.* attributes here");
            return;
        }
        let found = attributes(&file).unwrap();
        assert_eq!(found, [(b"user.a".to_vec(), b"1".to_vec())]);
        let plan = Plan::of(dir.path()).unwrap();
        let with = plan.nodes.iter().filter(|n| !n.xattrs.is_empty()).count();
        assert_eq!(with, 1);
    }
}
