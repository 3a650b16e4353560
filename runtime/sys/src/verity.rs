//! fs-verity: files that the kernel verifies as they are read (ext4 and f2fs since 5.4, btrfs
//! since 5.15). Once it is on, nobody can write the file any more.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Error, Result};

/// `_IOW('f', 133, struct fsverity_enable_arg)` of linux/fsverity.h.
const FS_IOC_ENABLE_VERITY: libc::Ioctl = 0x4080_6685;
/// `_IOWR('f', 134, struct fsverity_digest)`, 4 bytes without its array.
const FS_IOC_MEASURE_VERITY: libc::Ioctl = 0xc004_6686_u32 as libc::Ioctl;
const SHA256: u16 = 1;
/// Of the Merkle tree. Until 6.3 it must be the page size.
const BLOCK: u32 = 4096;

/// struct fsverity_enable_arg.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// struct fsverity_digest with room for SHA-256.
#[repr(C)]
#[derive(Default)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; 32],
}

/// Turns fs-verity on, with SHA-256. The file is open for reading alone, and by nobody for writing
/// (ETXTBSY). EEXIST where it is on; EOPNOTSUPP or ENOTTY where the file system or the kernel has none.
pub fn enable(file: BorrowedFd<'_>) -> Result<()> {
    let arg = Enable {
        version: 1,
        hash_algorithm: u32::from(SHA256),
        block_size: BLOCK,
        ..Enable::default()
    };
    // SAFETY: the kernel reads one struct fsverity_enable_arg, whose layout `Enable` has; its
    // pointers are null and their sizes 0.
    let ret = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY, &raw const arg) };
    if ret < 0 {
        return Err(Error::last("ioctl", format_args!("FS_IOC_ENABLE_VERITY")));
    }
    Ok(())
}

/// The digest of a file that fs-verity is on for: the root of its Merkle tree with its size
/// (`struct fsverity_descriptor`, SHA-256). ENODATA where it is off; EOPNOTSUPP or ENOTTY where the file system or the
/// kernel has none.
pub fn measure(file: BorrowedFd<'_>) -> Result<[u8; 32]> {
    let mut measured = Measured {
        size: 32,
        ..Measured::default()
    };
    // SAFETY: the kernel writes one struct fsverity_digest with at most `size` bytes of digest,
    // for which `Measured` has room.
    let ret = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY, &raw mut measured) };
    if ret < 0 {
        return Err(Error::last("ioctl", format_args!("FS_IOC_MEASURE_VERITY")));
    }
    if (measured.algorithm, measured.size) != (SHA256, 32) {
        let args = format_args!("FS_IOC_MEASURE_VERITY, algorithm {}", measured.algorithm);
        return Err(Error::new("ioctl", args, crate::Errno(libc::EOPNOTSUPP)));
    }
    Ok(measured.digest)
}

/// Whether an error of [`enable`] or [`measure`] says that there is no fs-verity here. Until 6.3 it is
/// EINVAL where blocks of the file system are no pages, as on small ext4.
pub fn is_missing(error: &Error) -> bool {
    let codes = [libc::EOPNOTSUPP, libc::ENOTTY, libc::EINVAL];
    codes.iter().any(|e| error.is(*e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!((size_of::<Enable>(), size_of::<Measured>()), (128, 36));
    }

    #[test]
    fn a_file_without_it_has_no_digest() {
        let file = std::fs::File::open("/proc/self/exe").expect("a file");
        let error = measure(file.as_fd()).expect_err("nobody turned it on");
        assert!(is_missing(&error) || error.is(libc::ENODATA), "{error}");
    }
}
