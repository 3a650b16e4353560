//! Where sockets go: beside the container's state where the path is short enough for a socket
//! (107 bytes), else in a directory of short names.

use crate::args::Args;
use rustix::fd::OwnedFd;
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Directory for bundles whose path is too long for a socket.
const FALLBACK: &str = "/run/rrun-shim/s";
/// Room for the name of any socket of ours after the directory.
const ROOM: usize = 107 - 24;

/// Path of the Task API's socket for a shim; the same for the same arguments.
pub fn task_socket(args: &Args) -> PathBuf {
    if let Some(dir) = &args.socket_dir {
        return dir.join(hash(args));
    }
    if args.bundle.as_os_str().len() <= ROOM {
        return args.bundle.join("shim.sock");
    }
    Path::new(FALLBACK).join(hash(args))
}

/// Path of a further socket (consoles, attach streams) beside the shim's own.
pub fn sibling(socket: &Path, kind: char, number: u32) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(format!(".{kind}{number}"));
    PathBuf::from(name)
}

/// Removes a shim's socket and all its siblings.
pub fn remove_all(socket: &Path) {
    let _ = fs::remove_file(socket);
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return;
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let prefix = [name.as_encoded_bytes(), b"."].concat();
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(&prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// FNV-1a of 64 bits, twice with different beginnings: a short name, not a secret. Two shims that
/// meet in it are told apart by the second's refusal to listen.
fn hash(args: &Args) -> String {
    let text = format!("{}\0{}\0{}", args.bundle.display(), args.namespace, args.id);
    let fnv = |basis: u64| {
        text.bytes().fold(basis, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    format!(
        "{:016x}{:016x}",
        fnv(0xcbf2_9ce4_8422_2325),
        fnv(0x6c62_272e_07bb_0142)
    )
}

/// Listens on a path, for root alone. The directory is made where it is not there.
pub fn listen_on(path: &Path) -> io::Result<OwnedFd> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600))?;
    listen(&fd, 64)?;
    Ok(fd)
}

/// Accepts a connection, non-blocking.
pub fn accept(listener: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Connects to a path. With `nonblocking` both the connecting and the socket are.
pub fn connect_to(path: &Path, nonblocking: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = SocketFlags::CLOEXEC;
    if nonblocking {
        flags |= SocketFlags::NONBLOCK;
    }
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn args(bundle: &str) -> Args {
        let line = ["-namespace", "n", "-id", "i", "-bundle", bundle, "start"];
        Args::parse(line.into_iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn a_socket_path_fits_a_socket_address() {
        for length in [1, 50, 80, 84, 107, 300] {
            let socket = task_socket(&args(&format!("/{}", "b".repeat(length))));
            assert!(sibling(&socket, 'a', 99_999_999).as_os_str().len() <= 107);
        }
    }

    #[test]
    fn long_bundles_have_names_of_their_own() {
        let [a, b] = ["a", "b"].map(|c| task_socket(&args(&format!("/{}", c.repeat(200)))));
        assert_ne!(a, b);
        assert!(a.starts_with(FALLBACK));
    }
}
