//! FIFOs between the other shim and ours.

use crate::io::{Io, Stdio, at, failed};
use crate::output::{Output, Sink};
use crate::poll::{Key, Poller};
use crate::stdin::Stdin;
use crate::uri::{self, Source, Target};
use rrun_task_api::Status;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use std::path::{Path, PathBuf};

/// What the other shim is told of a process's stdio.
#[derive(Debug, Default)]
pub struct Theirs {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// Makes the FIFOs in `dir`. What is somebody else's already (a FIFO, a logging program) is handed on.
pub fn open(stdio: &Stdio, key: Key, dir: &Path, poller: &Poller) -> Result<(Io, Theirs), Status> {
    let mut io = Io::default();
    let mut theirs = Theirs {
        stdin: input(&mut io, &stdio.stdin, key, dir, poller)?,
        ..Theirs::default()
    };
    theirs.stdout = output(&mut io, &stdio.stdout, 1, key, dir, poller)?;
    if !stdio.terminal {
        theirs.stderr = output(&mut io, &stdio.stderr, 2, key, dir, poller)?;
    }
    Ok((io, theirs))
}

fn input(io: &mut Io, uri: &str, key: Key, dir: &Path, poller: &Poller) -> Result<String, Status> {
    match uri::source(uri)? {
        Source::Null => Ok(String::new()),
        Source::Fifo(_) => Ok(uri.to_owned()),
        Source::Attach => {
            let path = fifo(dir, key, 0)?;
            // Without a reader it could not be opened for writing; and what comes early is kept.
            let reader = open_fifo(&path, OFlags::RDONLY)?;
            let writer = open_fifo(&path, OFlags::WRONLY)?;
            io.stdin = Some(Stdin::new(key, writer, None, poller));
            io.hold(reader, &path);
            Ok(text(&path))
        }
    }
}

fn output(
    io: &mut Io,
    uri: &str,
    number: u8,
    key: Key,
    dir: &Path,
    poller: &Poller,
) -> Result<String, Status> {
    let target = uri::target(uri)?;
    if matches!(target, Target::Null | Target::Fifo(_) | Target::Binary(..)) {
        return Ok(uri.to_owned());
    }
    let sink = io.pumped_sink(&target)?;
    let path = fifo(dir, key, number)?;
    let reader = open_fifo(&path, OFlags::RDONLY)?;
    // Until the process has ended, or it would seem to have before it began.
    let writer = open_fifo(&path, OFlags::WRONLY)?;
    io.hold(writer, &path);
    let mut output = Output::new(key, number, reader, sink);
    output.watch(!matches!(output.sink, Sink::Attach), poller);
    io.outputs[usize::from(number - 1)] = Some(output);
    Ok(text(&path))
}

fn fifo(dir: &Path, key: Key, number: u8) -> Result<PathBuf, Status> {
    let path = dir.join(format!("io-{key}-{number}"));
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .map_err(at("make FIFO", &path))?;
    Ok(path)
}

fn open_fifo(path: &Path, access: OFlags) -> Result<OwnedFd, Status> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open a FIFO"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
