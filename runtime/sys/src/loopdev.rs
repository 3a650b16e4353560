//! Loop devices: files as block devices. They go by themselves when nobody uses them any more.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::Errno;
use crate::{Error, Result};

/// LOOP_CTL_GET_FREE of linux/loop.h.
const GET_FREE: libc::Ioctl = 0x4c82;
/// LOOP_CONFIGURE (5.8).
const CONFIGURE: libc::Ioctl = 0x4c0a;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
/// How often another process may be faster.
const TRIES: usize = 64;

/// struct loop_info64.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A read-only loop device of a file. It is there as long as the file given back is open, or what it
/// is mounted with is.
pub fn attach(file: BorrowedFd<'_>) -> Result<(File, String)> {
    let control = open("/dev/loop-control")?;
    let mut last = None;
    for _ in 0..TRIES {
        // SAFETY: no argument; returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        if number < 0 {
            return Err(Error::last("ioctl", format_args!("LOOP_CTL_GET_FREE")));
        }
        let path = format!("/dev/loop{number}");
        let device = open(&path)?;
        match configure(&device, file) {
            Ok(()) => return Ok((device, path)),
            Err(error) if error.is(libc::EBUSY) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let busy = || Error::new("ioctl", format_args!("LOOP_CONFIGURE"), Errno(libc::EBUSY));
    Err(last.unwrap_or_else(busy))
}

fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|e| Error::io("open", format_args!("{path}"), &e))
}

fn configure(device: &File, file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: all zero is a value of this struct of integers.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = file.as_raw_fd() as u32;
    config.info.flags = READ_ONLY | AUTOCLEAR;
    // SAFETY: the kernel reads one struct loop_config, whose layout `Config` has.
    let ret = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
    if ret < 0 {
        return Err(Error::last("ioctl", format_args!("LOOP_CONFIGURE")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }

    /// Skips where the process may make none.
    #[test]
    fn a_device_shows_the_file_and_goes_with_its_user() {
        use std::io::{Read, Write};
        let path = std::env::temp_dir().join(format!("rrun-loop-{}", std::process::id()));
        let mut file = File::create(&path).expect("a temporary file");
        file.write_all(&[7; 8192]).expect("written");
        let file = File::open(&path).expect("opened");
        let attached = attach(file.as_fd());
        std::fs::remove_file(&path).expect("removed");
        let Ok((mut device, name)) = attached else {
            eprintln!("skipped: no loop devices here");
            return;
        };
        let mut bytes = Vec::new();
        device.read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, [7; 8192], "{name}");
    }
}
