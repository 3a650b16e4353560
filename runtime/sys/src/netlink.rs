//! Network interfaces of a new namespace: the loopback.

use crate::{Error, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::AsRawFd;

/// Sets the loopback interface of the caller's network namespace up.
pub fn loopback_up() -> Result<()> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|e| Error::new("socket", format_args!("AF_UNIX"), e.into()))?;
    // SAFETY: ifreq is plain data, for which zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads a live ifreq.
    if unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        )
    } != 0
    {
        return Err(Error::last("ioctl", format_args!("SIOCSIFFLAGS, lo, up")));
    }
    Ok(())
}
