//! A terminal of the runtime's making: it sends the master over a socket that we listen on.

use crate::sock;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::path::PathBuf;

/// A runtime that has connected sends at once; this is for one that has stopped in between.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The socket that one terminal comes through.
pub struct Console {
    /// The listening socket.
    pub listener: OwnedFd,
    /// Its path, which the runtime gets as `--console-socket`.
    pub path: PathBuf,
}

impl Console {
    /// Listens on `path`.
    pub fn listen(path: PathBuf) -> io::Result<Self> {
        let _ = fs::remove_file(&path);
        Ok(Self {
            listener: sock::listen_on(&path)?,
            path,
        })
    }

    /// Takes the master; `None` while nobody has connected.
    pub fn take(&self) -> io::Result<Option<OwnedFd>> {
        let stream = match sock::accept(&self.listener) {
            Ok(stream) => stream,
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&PATIENCE))?;
        receive(&stream).map(Some)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn receive(stream: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::other(
        "the runtime sent no terminal over the console socket",
    ))
}

/// Sets the size of a terminal in characters.
pub fn resize(master: &OwnedFd, width: u32, height: u32) -> io::Result<()> {
    let limit = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: limit(height),
        ws_col: limit(width),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(master, size)?)
}
