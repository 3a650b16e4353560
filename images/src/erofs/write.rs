//! The planned image, from its start to its end.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rrun_sys::writeback;

use super::layout::{self, BLOCK, Data, Entry, FIRST, Inode, SUPER};
use super::plan::{Content, Node, Plan, sorted_with_dots};
use crate::{Digest, Hasher};

const BUFFER: usize = 256 << 10;
/// Bytes that are started to the disk at once.
const WRITEBACK: u64 = 4 << 20;

pub(super) fn write(plan: &Plan, root: &Path, file: &File, uuid: [u8; 16]) -> io::Result<Digest> {
    let mut image = Image {
        file: BufWriter::with_capacity(BUFFER, file),
        hasher: Hasher::default(),
        at: 0,
        written: 0,
        started: 0,
        first: Vec::with_capacity(BLOCK as usize),
    };
    image.put(&[0; SUPER as usize])?;
    let root_nid = FIRST / layout::SLOT;
    let inodes = plan.nodes.len() as u64;
    image.put(&layout::superblock(root_nid, inodes, plan.blocks, uuid))?;
    for (number, node) in plan.nodes.iter().enumerate() {
        image.pad(node.offset)?;
        image.put(&inode(node, number).bytes())?;
        image.put(&node.xattrs)?;
        if matches!(node.data, Data::Inline(_)) {
            image.data(plan, number, root)?;
        }
    }
    image.pad(u64::from(plan.data_start) * BLOCK)?;
    for (number, node) in plan.nodes.iter().enumerate() {
        if matches!(node.data, Data::Blocks(_)) {
            image.data(plan, number, root)?;
            let end = image.at.next_multiple_of(BLOCK);
            image.pad(end)?;
        }
    }
    image.pad(u64::from(plan.blocks) * BLOCK)?;
    image.finish()
}

fn inode(node: &Node, number: usize) -> Inode {
    Inode {
        // The upper bits are none of a mode.
        mode: (node.mode & 0xffff) as u16,
        size: node.size,
        data: node.data,
        number: u32::try_from(number + 1).expect("a layer has at most 4 million entries"),
        owner: node.owner,
        mtime: node.mtime,
        links: node.links,
        xattrs: node.xattrs.len() as u64,
    }
}

struct Image<'a> {
    file: BufWriter<&'a File>,
    hasher: Hasher,
    at: u64,
    /// Bytes of the file so far, and how many of them are on their way to the disk.
    written: u64,
    started: u64,
    /// The first block, until it is whole: the checksum of it stands at its start.
    first: Vec<u8>,
}

impl Image<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = usize::try_from(BLOCK.saturating_sub(self.at)).expect("at most a block");
        let (first, rest) = bytes.split_at(before.min(bytes.len()));
        self.at += bytes.len() as u64;
        if !first.is_empty() {
            self.first.extend(first);
            if self.first.len() as u64 == BLOCK {
                let mut whole = std::mem::take(&mut self.first);
                let start = SUPER as usize;
                let sum = layout::checksum(&whole[start..]).to_le_bytes();
                whole[start + 4..start + 8].copy_from_slice(&sum);
                self.out(&whole)?;
            }
        }
        self.out(rest)
    }

    fn out(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.started < WRITEBACK {
            return Ok(());
        }
        // On to the disk at once, so that the sync at the end does not wait for all of it.
        let (from, length) = (self.started, self.written - self.started);
        self.started = self.written;
        writeback::start(self.file.get_ref().as_fd(), from, length).map_err(io::Error::other)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        while self.at < to {
            let n = (to - self.at).min(BLOCK) as usize;
            self.put(&[0; BLOCK as usize][..n])?;
        }
        Ok(())
    }

    fn data(&mut self, plan: &Plan, number: usize, root: &Path) -> io::Result<()> {
        let node = &plan.nodes[number];
        match &node.content {
            Content::Nothing => Ok(()),
            Content::Link(target) => self.put(target),
            Content::Directory(children, above) => {
                let entry = |(name, child): &(&'_ [u8], Option<usize>)| {
                    let dots = if *name == b"." { number } else { *above };
                    (name.to_vec(), child.unwrap_or(dots))
                };
                let all: Vec<_> = sorted_with_dots(children).iter().map(entry).collect();
                let entries: Vec<_> = all
                    .iter()
                    .map(|(name, child)| Entry {
                        name,
                        nid: plan.nodes[*child].nid(),
                        kind: plan.nodes[*child].kind(),
                    })
                    .collect();
                self.put(&layout::directory(&entries))
            }
            Content::File => self.copy(node, root).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", node.path.display()))
            }),
        }
    }

    fn copy(&mut self, node: &Node, root: &Path) -> io::Result<()> {
        let mut file = File::open(root.join(&node.path))?;
        let mut buffer = vec![0; BUFFER.min(usize::try_from(node.size).unwrap_or(BUFFER))];
        let mut left = node.size;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
            file.read_exact(&mut buffer[..want])?;
            self.put(&buffer[..want])?;
            left -= want as u64;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Digest> {
        self.file.flush()?;
        Ok(self.hasher.finish().0)
    }
}
