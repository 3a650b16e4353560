//! Loading seccomp filters.

use crate::{Error, Result};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump when true.
    pub jt: u8,
    /// Jump when false.
    pub jf: u8,
    /// Generic operand.
    pub k: u32,
}

/// Loads `program` for the calling thread with `flags` (`SECCOMP_FILTER_FLAG_*`).
/// Returns the listener when `SECCOMP_FILTER_FLAG_NEW_LISTENER` is among them.
/// Needs no_new_privs or CAP_SYS_ADMIN in the caller's user namespace (seccomp(2)).
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: fprog points at `program`, which outlives the call; the kernel only reads it, and
    // Instruction has sock_filter's layout.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&fprog),
        )
    };
    if ret < 0 {
        return Err(Error::last(
            "seccomp",
            format_args!(
                "SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions",
                program.len()
            ),
        ));
    }
    let listener = u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    // SAFETY: with NEW_LISTENER a non-negative return value is a descriptor that nobody else owns.
    Ok(listener.then(|| unsafe { OwnedFd::from_raw_fd(ret as i32) }))
}

/// Name of the file in a container's state directory that holds its filter, for an exec that does
/// not compile the profile again. There is none where the profile has a listener.
pub const SAVED: &str = "seccomp.bpf";

const MAGIC: &[u8; 8] = b"rrunbpf1";

/// Writes `program` and its `flags` to a file: eight bytes "rrunbpf1", the flags and the
/// instructions in the kernel's layout and byte order. The file is the machine's own and is gone
/// with the container.
pub fn save(path: &Path, program: &[Instruction], flags: u32) -> Result<()> {
    let mut data = Vec::with_capacity(MAGIC.len() + 4 + program.len() * 8);
    data.extend(MAGIC);
    data.extend(flags.to_ne_bytes());
    for i in program {
        data.extend(i.code.to_ne_bytes());
        data.extend([i.jt, i.jf]);
        data.extend(i.k.to_ne_bytes());
    }
    std::fs::write(path, data)
        .map_err(|e| Error::io("write", format_args!("{}", path.display()), &e))
}

/// What [`save`] wrote; `None` when there is no such file or it is not whole.
pub fn saved(path: &Path) -> Option<(Vec<Instruction>, u32)> {
    let data = std::fs::read(path).ok()?;
    let (flags, rest) = data.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (program, rest) = rest.as_chunks::<8>();
    let one = |b: &[u8; 8]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    let whole = rest.is_empty() && !program.is_empty();
    whole.then(|| {
        (
            program.iter().map(one).collect(),
            u32::from_ne_bytes(*flags),
        )
    })
}

/// An anonymous file for libseccomp to write a program to (memfd_create(2)).
pub fn scratch() -> Result<OwnedFd> {
    // SAFETY: the name is a static string; nothing else is passed by pointer.
    let fd = unsafe { libc::memfd_create(c"seccomp".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last(
            "memfd_create",
            format_args!("seccomp, MFD_CLOEXEC"),
        ));
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the kernel knows the filter flags (any of `SECCOMP_FILTER_FLAG_*`): with a
/// null program a known flag fails with EFAULT, an unknown one with EINVAL (seccomp(2)).
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: the kernel checks the null pointer and answers EFAULT; nothing is loaded.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    ret < 0 && crate::Errno::last().0 == libc::EFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_filter_comes_back_whole_or_not_at_all() {
        let path = std::env::temp_dir().join(format!("rrun-bpf-{}", std::process::id()));
        let program = [0x20u16, 0x06].map(|code| Instruction {
            code,
            jt: 1,
            jf: 2,
            k: 0x7fff_0000,
        });
        save(&path, &program, 4).unwrap();
        assert_eq!(saved(&path), Some((program.to_vec(), 4)));
        let data = std::fs::read(&path).unwrap();
        std::fs::write(&path, &data[..data.len() - 1]).unwrap();
        assert_eq!(saved(&path), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(saved(&path), None);
    }
}
