//! The on-disk format (erofs.docs.kernel.org, since kernel 5.4): little-endian records of fixed
//! places. Of it, what is not compressed: inodes of 64 bytes, data flat or right behind the inode,
//! attributes with the inode.

/// Blocks of 4 KiB: every kernel mounts them.
pub(super) const BLOCK: u64 = 4096;
/// Inodes are numbered by their place, in units of 32 bytes.
pub(super) const SLOT: u64 = 32;
/// An inode with 64-bit sizes and times and 32-bit owners.
pub(super) const INODE: u64 = 64;
/// Where the superblock is, and the first inode, whose number must fit 16 bits.
pub(super) const SUPER: u64 = 1024;
pub(super) const FIRST: u64 = SUPER + 128;
/// A directory's entry before its name.
pub(super) const DIRENT: u64 = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
/// Every inode's time is its mtime.
const COMPAT_MTIME: u32 = 2;
const VERSION_EXTENDED: u16 = 1;

/// How an inode's data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// In blocks from this one on.
    Blocks(u32),
    /// Behind the inode and its attributes; what fills whole blocks before that from this block on.
    Inline(u32),
    /// None; a device's number, or 0.
    None(u32),
}

/// `struct erofs_inode_extended`.
pub(super) struct Inode {
    pub mode: u16,
    pub size: u64,
    pub data: Data,
    pub number: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    /// Bytes of [`xattrs`].
    pub xattrs: u64,
}

impl Inode {
    pub fn bytes(&self) -> [u8; INODE as usize] {
        let (layout, union) = match self.data {
            Data::Blocks(start) => (0, start),
            Data::Inline(start) => (2u16, start),
            Data::None(device) => (0, device),
        };
        let mut out = [0; INODE as usize];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(VERSION_EXTENDED | layout << 1).to_le_bytes());
        put(2, &xattr_count(self.xattrs).to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &union.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.owner.0.to_le_bytes());
        put(28, &self.owner.1.to_le_bytes());
        put(32, &self.mtime.0.to_le_bytes());
        put(40, &self.mtime.1.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        out
    }
}

/// `i_xattr_icount`: 0 without attributes, else one more than words behind their header.
fn xattr_count(bytes: u64) -> u16 {
    match bytes {
        0 => 0,
        bytes => u16::try_from((bytes - XATTR_HEADER) / 4 + 1).expect("bounded by XATTR_LIMIT"),
    }
}

const XATTR_HEADER: u64 = 12;
/// What the count of an inode can say.
pub(super) const XATTR_LIMIT: usize = 65_000 * 4;

/// Name spaces by number; the rest of a name follows.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// The attributes of an inode as they follow it, empty without any. An error names what the
/// format has no place for.
pub(super) fn xattrs(attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, String> {
    if attributes.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = vec![0; XATTR_HEADER as usize];
    for (name, value) in attributes {
        let shown = || String::from_utf8_lossy(name).into_owned();
        let known = PREFIXES.iter().find_map(|(prefix, index)| {
            let rest = name.strip_prefix(*prefix)?;
            let whole = prefix.last() != Some(&b'.');
            (!whole || rest.is_empty()).then_some((rest, *index))
        });
        let (rest, index) =
            known.ok_or_else(|| format!("attribute {}: no name for it", shown()))?;
        let length = u8::try_from(rest.len()).map_err(|_| format!("{}: too long", shown()))?;
        let size = u16::try_from(value.len()).map_err(|_| format!("{}: too large", shown()))?;
        out.extend([length, index]);
        out.extend(size.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() > XATTR_LIMIT {
        return Err("more attributes than an inode can have".to_owned());
    }
    Ok(out)
}

/// A device's number as an inode has it: the kernel's `new_encode_dev`.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub name: &'a [u8],
    /// Where its inode is, in slots.
    pub nid: u64,
    /// File type: 1 regular, 2 directory, 3 character, 4 block, 5 FIFO, 6 socket, 7 link.
    pub kind: u8,
}

/// Bytes of a directory with names of these lengths, sorted. Each block has its entries, then their
/// names; none is split.
pub(super) fn directory_size(names: impl Iterator<Item = usize>) -> u64 {
    let (mut whole, mut used) = (0, 0);
    for name in names {
        let size = DIRENT + name as u64;
        if used + size > BLOCK {
            whole += BLOCK;
            used = 0;
        }
        used += size;
    }
    whole + used
}

/// A directory's data. `entries` are sorted by name, "." and ".." among them.
pub(super) fn directory(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        let mut used = 0;
        let fits = |entry: &&Entry<'_>| {
            used += DIRENT + entry.name.len() as u64;
            used <= BLOCK
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        let mut at = block.len() * DIRENT as usize;
        for entry in block {
            out.extend(entry.nid.to_le_bytes());
            out.extend(
                u16::try_from(at)
                    .expect("a block has 4096 bytes")
                    .to_le_bytes(),
            );
            out.extend([entry.kind, 0]);
            at += entry.name.len();
        }
        for entry in block {
            out.extend(entry.name);
        }
        rest = after;
    }
    out
}

/// The first block from the superblock on.
pub(super) fn superblock(root: u64, inodes: u64, blocks: u32, uuid: [u8; 16]) -> [u8; 128] {
    let mut out = [0; 128];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    put(12, &[BLOCK.ilog2() as u8]);
    let root = u16::try_from(root).expect("the root is the first inode");
    put(14, &root.to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(48, &uuid);
    out
}

/// CRC-32C as the superblock has it: of the first block from the superblock on, without the
/// final complement.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of the catalogue, without its final complement.
        assert_eq!(checksum(b"123456789"), !0xe306_9283);
    }

    #[test]
    fn directories_split_between_blocks_only() {
        let names: Vec<Vec<u8>> = (0..1000)
            .map(|n| format!("{n:0>200}").into_bytes())
            .collect();
        let entry = |name| Entry {
            name,
            nid: 7,
            kind: 1,
        };
        let entries: Vec<_> = names.iter().map(|n| entry(n.as_slice())).collect();
        let bytes = directory(&entries);
        assert_eq!(
            bytes.len() as u64,
            directory_size(names.iter().map(Vec::len))
        );
        let mut found = 0;
        for block in bytes.chunks(BLOCK as usize) {
            let first = usize::from(u16::from_le_bytes([block[8], block[9]]));
            assert_eq!(first % DIRENT as usize, 0);
            found += first / DIRENT as usize;
            assert_eq!(&block[first..first + 190], &[b'0'; 190][..]);
        }
        assert_eq!(found, 1000);
    }

    #[test]
    fn attributes_are_padded_and_counted() {
        let bytes = xattrs(&[
            (b"user.a".to_vec(), b"xyz".to_vec()),
            (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
            (b"system.posix_acl_access".to_vec(), vec![1; 4]),
        ])
        .unwrap();
        assert_eq!(bytes[12..20], [1, 1, 3, 0, b'a', b'x', b'y', b'z']);
        assert_eq!(bytes[20..24], [14, 4, 1, 0]);
        assert_eq!(bytes.len(), 12 + 8 + 20 + 8);
        assert_eq!(xattr_count(bytes.len() as u64), 1 + 36 / 4);
        assert_eq!(xattr_count(0), 0);
        assert!(xattrs(&[(b"system.other".to_vec(), Vec::new())]).is_err());
        assert!(xattrs(&[(b"user.big".to_vec(), vec![0; 70_000])]).is_err());
        assert!(xattrs(&[]).unwrap().is_empty());
    }

    #[test]
    fn device_numbers_are_the_kernel_s() {
        assert_eq!(device(0, 0), 0);
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(259, 0x12345), 0x1231_0345);
    }
}
