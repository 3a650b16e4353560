//! Unix sockets: pairs, descriptors as messages.

use crate::Result;
use crate::error::Call;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg,
    socket, socketpair,
};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A pair of connected SOCK_SEQPACKET sockets, close-on-exec: messages keep their bounds.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .call("socketpair", format_args!("AF_UNIX, SOCK_SEQPACKET"))
}

/// Connects a stream socket to `path`.
pub fn connect_unix(path: &Path) -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .call("socket", format_args!("AF_UNIX, SOCK_STREAM"))?;
    let address = UnixAddr::new(path).call("connect", format_args!("{}", path.display()))?;
    connect(fd.as_raw_fd(), &address).call("connect", format_args!("{}", path.display()))?;
    Ok(fd)
}

/// Sends `data` with descriptors attached (SCM_RIGHTS).
pub fn send_fds(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(data)],
        &[ControlMessage::ScmRights(&raw)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map(|_| ())
    .call(
        "sendmsg",
        format_args!("{} bytes, {} descriptors", data.len(), fds.len()),
    )
}

/// Sends a datagram to the unix socket at `path` (sd_notify(3) addresses; "@" is abstract).
pub fn send_datagram(path: &str, data: &[u8]) -> Result<()> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .call("socket", format_args!("AF_UNIX, SOCK_DGRAM"))?;
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(path),
    }
    .call("sendmsg", format_args!("{path}"))?;
    sendmsg(
        fd.as_raw_fd(),
        &[IoSlice::new(data)],
        &[],
        MsgFlags::MSG_NOSIGNAL,
        Some(&address),
    )
    .map(|_| ())
    .call("sendmsg", format_args!("{path}"))
}

/// Receives one message, and a descriptor (SCM_RIGHTS, close-on-exec) if one comes with it.
pub fn receive_with_fd(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::os::fd::FromRawFd;
    let mut iov = [std::io::IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags)
        .call("recvmsg", format_args!("a message"))?;
    let length = message.bytes;
    let mut passed = None;
    for control in message.cmsgs().call("recvmsg", format_args!("a message"))? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for this message, and
            // the buffer has room for one: nobody else owns it.
            passed = Some(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Ok((length, passed))
}

/// Receives one descriptor (SCM_RIGHTS), close-on-exec. EPIPE when the other side
/// closed without sending one.
pub fn receive_fd(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::os::fd::FromRawFd;
    let mut data = [0u8; 256];
    let mut iov = [std::io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags)
        .call("recvmsg", format_args!("a descriptor"))?;
    for control in message
        .cmsgs()
        .call("recvmsg", format_args!("a descriptor"))?
    {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for this message, and
            // the buffer has room for one: nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(crate::Error::new(
        "recvmsg",
        format_args!("a descriptor"),
        crate::Errno(libc::EPIPE),
    ))
}
