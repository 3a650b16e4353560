//! The stdio of one process: from URIs to descriptors for the runtime and ours.

use crate::console::Console;
use crate::log::Log;
use crate::output::{Output, Sink};
use crate::poll::{Key, Poller};
use crate::spawn::{self, Child};
use crate::stdin::Stdin;
use crate::uri::{self, Source, Target};
use rrun_task_api::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::CString;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How long a logging program may take until it is ready.
const LOGGER_PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// What a request says about stdio.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// All three are one terminal.
    pub terminal: bool,
    /// URI of where input comes from.
    pub stdin: String,
    /// URI of where output goes.
    pub stdout: String,
    /// URI of where errors go; nothing to a terminal.
    pub stderr: String,
}

/// Whose stdio it is.
pub struct Owner<'a> {
    /// Number of the process.
    pub key: Key,
    /// Container id, told to a logging program.
    pub id: &'a str,
    /// containerd's namespace, told to a logging program.
    pub namespace: &'a str,
}

/// The descriptors that the runtime gets as 0, 1 and 2.
pub struct Given {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

impl Given {
    /// Gives pipes and FIFOs to a user, who may then open them again through `/proc`. `/dev/null`
    /// stays everybody's.
    pub fn chown(&self, uid: u32, gid: u32) -> rustix::io::Result<()> {
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
            if kind == FileType::Fifo {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                rustix::fs::fchown(fd, Some(uid), Some(gid))?;
            }
        }
        Ok(())
    }
}

/// Our side of a process's stdio.
#[derive(Default)]
pub struct Io {
    /// The way to standard input, until it is closed.
    pub stdin: Option<Stdin>,
    /// stdout and stderr, until their end.
    pub outputs: [Option<Output>; 2],
    /// The terminal.
    pub master: Option<OwnedFd>,
    /// Where the terminal is to come through.
    pub console: Option<Console>,
    /// Size that the terminal gets when it comes.
    pub size: Option<(u32, u32)>,
    /// The Kubernetes log.
    pub log: Option<Log>,
    /// FIFOs held open for both ways while the process lives, so that it neither dies nor ends
    /// for want of a reader that is away.
    held: Vec<OwnedFd>,
    /// FIFOs of our own making, to remove.
    made: Vec<PathBuf>,
    /// For a terminal that has not come yet.
    planned: Option<(Option<Sink>, Option<OwnedFd>, bool)>,
}

impl Io {
    /// Opens everything for a process without a terminal.
    pub fn pipes(
        stdio: &Stdio,
        owner: &Owner<'_>,
        poller: &Poller,
    ) -> Result<(Self, Given), Status> {
        let mut io = Self::default();
        let stdin = io.open_stdin(&stdio.stdin, owner.key, poller)?;
        let targets = [uri::target(&stdio.stdout)?, uri::target(&stdio.stderr)?];
        let [stdout, stderr] = io.open_outputs(targets, owner, poller)?;
        Ok((
            io,
            Given {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// For a command whose output is kept for its caller, and that has no input. Nothing is watched yet.
    pub fn kept(key: Key) -> Result<(Self, Given), Status> {
        let mut io = Self::default();
        let mut open = |number: u8| {
            let (reader, writer) = pipe()?;
            set_nonblocking(&reader)?;
            let output = Output::new(key, number, reader, Sink::Kept);
            io.outputs[usize::from(number - 1)] = Some(output);
            Ok::<_, Status>(writer)
        };
        let (stdout, stderr) = (open(1)?, open(2)?);
        let stdin = null()?;
        Ok((
            io,
            Given {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// What was kept goes to an attached client from here on.
    pub fn attach_kept(&mut self) {
        for output in self.outputs.iter_mut().flatten() {
            output.sink = Sink::Attach;
        }
    }

    /// Prepares for a terminal that comes through a console socket at `path`.
    pub fn terminal(stdio: &Stdio, owner: &Owner<'_>, path: &Path) -> Result<Self, Status> {
        let mut io = Self::default();
        let sink = match uri::target(&stdio.stdout)? {
            Target::Fifo(path) => Sink::Pipe(open_fifo(&path, OFlags::RDWR)?, Vec::new()),
            Target::Binary(program, args) => {
                let (reader, writer) = pipe()?;
                let (error_reader, _) = pipe()?;
                start_logger(&program, &args, owner, &reader, &error_reader)?;
                set_nonblocking(&writer)?;
                Sink::Pipe(writer, Vec::new())
            }
            target => io.pumped_sink(&target)?,
        };
        let (fifo, wants_stdin) = match uri::source(&stdio.stdin)? {
            Source::Null => (None, false),
            Source::Fifo(path) => (Some(open_fifo(&path, OFlags::RDONLY)?), true),
            Source::Attach => (None, true),
        };
        io.planned = Some((Some(sink), fifo, wants_stdin));
        io.console =
            Some(Console::listen(path.to_owned()).map_err(at("listen for a console", path))?);
        Ok(io)
    }

    /// The runtime may have sent the terminal: takes it into use.
    pub fn on_console(&mut self, key: Key, poller: &Poller) -> Result<(), Status> {
        let Some(console) = &self.console else {
            return Ok(());
        };
        let taken = console
            .take()
            .map_err(at("take the terminal from", &console.path))?;
        let Some(master) = taken else { return Ok(()) };
        poller.remove(&console.listener);
        self.console = None;
        set_nonblocking(&master)?;
        let copy =
            || rustix::io::fcntl_dupfd_cloexec(&master, 3).map_err(failed("copy a terminal"));
        if let Some((sink, fifo, wants_stdin)) = self.planned.take() {
            let sink = sink.unwrap_or(Sink::Null);
            let mut output = Output::new(key, 1, copy()?, sink);
            output.watch(true, poller);
            self.outputs[0] = Some(output);
            if wants_stdin {
                self.stdin = Some(Stdin::new(key, copy()?, fifo, poller));
            }
        }
        if let Some((width, height)) = self.size {
            crate::console::resize(&master, width, height).map_err(failed("resize a terminal"))?;
        }
        self.master = Some(master);
        Ok(())
    }

    /// Whether all output has been read.
    pub fn output_ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none) && self.planned.is_none()
    }

    /// Whether input can be sent by attaching.
    pub fn takes_input(&self) -> bool {
        self.stdin.is_some() || matches!(self.planned, Some((_, _, true)))
    }

    /// Whether output can be seen by attaching: where it does not pass us, it cannot.
    pub fn shows_output(&self) -> bool {
        !self.output_ended()
    }

    /// Whether an attached client is the only reader.
    pub fn is_attach_only(&self) -> bool {
        let planned = self.planned.as_ref().and_then(|(sink, ..)| sink.as_ref());
        let sinks = self.outputs.iter().flatten().map(|output| &output.sink);
        sinks
            .chain(planned)
            .any(|sink| matches!(sink, Sink::Attach))
    }

    /// Nobody will attach any more: what waited for it goes nowhere.
    pub fn discard_attach_only(&mut self) {
        let planned = self.planned.as_mut().and_then(|(sink, ..)| sink.as_mut());
        let sinks = self
            .outputs
            .iter_mut()
            .flatten()
            .map(|output| &mut output.sink);
        for sink in sinks
            .chain(planned)
            .filter(|sink| matches!(sink, Sink::Attach))
        {
            *sink = Sink::Null;
        }
    }

    /// The process has ended: its FIFOs' readers are to see the end of them.
    pub fn release(&mut self) {
        self.held.clear();
    }

    /// Holds an end of a FIFO of our own making while the process lives.
    pub fn hold(&mut self, end: OwnedFd, path: &Path) {
        self.held.push(end);
        self.made.push(path.to_owned());
    }

    /// Forgets every descriptor.
    pub fn close(&mut self, poller: &Poller) {
        for path in &self.made {
            crate::server::forget(path);
        }
        for output in self.outputs.iter_mut().flatten() {
            output.unwatch(poller);
        }
        if let Some(stdin) = &mut self.stdin {
            stdin.unwatch(poller);
        }
        if let Some(console) = &self.console {
            poller.remove(&console.listener);
        }
        *self = Self::default();
    }

    fn open_stdin(&mut self, uri: &str, key: Key, poller: &Poller) -> Result<OwnedFd, Status> {
        let fifo = match uri::source(uri)? {
            Source::Null => return null(),
            Source::Fifo(path) => Some(open_fifo(&path, OFlags::RDONLY)?),
            Source::Attach => None,
        };
        let (reader, writer) = pipe()?;
        set_nonblocking(&writer)?;
        self.stdin = Some(Stdin::new(key, writer, fifo, poller));
        Ok(reader)
    }

    fn open_outputs(
        &mut self,
        targets: [Target; 2],
        owner: &Owner<'_>,
        poller: &Poller,
    ) -> Result<[OwnedFd; 2], Status> {
        if let [Target::Binary(program, args), other] = &targets
            && (other == &targets[0] || other == &Target::Null)
        {
            let ((out, out_writer), (err, err_writer)) = (pipe()?, pipe()?);
            start_logger(program, args, owner, &out, &err)?;
            return Ok([out_writer, err_writer]);
        }
        let [stdout, stderr] = targets;
        Ok([
            self.open_output(&stdout, 1, owner, poller)?,
            self.open_output(&stderr, 2, owner, poller)?,
        ])
    }

    fn open_output(
        &mut self,
        target: &Target,
        number: u8,
        owner: &Owner<'_>,
        poller: &Poller,
    ) -> Result<OwnedFd, Status> {
        match target {
            Target::Null => null(),
            // Straight through: no copy, and we are not in the way.
            Target::Fifo(path) => {
                self.held.push(open_fifo(path, OFlags::RDWR)?);
                let fd = open_fifo(path, OFlags::WRONLY)?;
                set_blocking(&fd)?;
                Ok(fd)
            }
            Target::Binary(..) => Err(Status::invalid(
                "stdout and stderr go to different logging programs; give both the same URI",
            )),
            target => {
                let sink = self.pumped_sink(target)?;
                let (reader, writer) = pipe()?;
                set_nonblocking(&reader)?;
                let mut output = Output::new(owner.key, number, reader, sink);
                output.watch(!matches!(output.sink, Sink::Attach), poller);
                self.outputs[usize::from(number - 1)] = Some(output);
                Ok(writer)
            }
        }
    }

    /// Where output goes that passes us.
    pub fn pumped_sink(&mut self, target: &Target) -> Result<Sink, Status> {
        Ok(match target {
            Target::File(path) => Sink::File(append(path).map_err(at("open", path))?),
            Target::Log(wanted) => {
                match &self.log {
                    Some(log) if log.path() == wanted.path => {}
                    Some(log) => {
                        return Err(Status::invalid(format!(
                            "stdout and stderr have different cri-logs ({} and {}); one log holds \
                             both",
                            log.path().display(),
                            wanted.path.display()
                        )));
                    }
                    None => {
                        let log = Log::open(wanted).map_err(at("open log", &wanted.path))?;
                        self.log = Some(log);
                    }
                }
                Sink::Log
            }
            Target::Attach => Sink::Attach,
            Target::Null | Target::Fifo(_) | Target::Binary(..) => Sink::Null,
        })
    }
}

/// Starts a program that reads both outputs: containerd's `binary` logging, which gives it 3
/// stdout, 4 stderr, and 5 to close when it is ready.
fn start_logger(
    program: &Path,
    args: &[(String, String)],
    owner: &Owner<'_>,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
) -> Result<Child, Status> {
    let text = |s: &str| CString::new(s).map_err(|_| Status::invalid("logging URI with a NUL"));
    let mut argv = vec![text(&program.to_string_lossy())?];
    for (key, value) in args {
        argv.push(text(key)?);
        if !value.is_empty() {
            argv.push(text(value)?);
        }
    }
    let mut env = spawn::environment();
    env.push(text(&format!("CONTAINER_ID={}", owner.id))?);
    env.push(text(&format!("CONTAINER_NAMESPACE={}", owner.namespace))?);
    let (ready, ready_writer) = pipe()?;
    let null = null()?;
    let fds = [&null, &null, &null, stdout, stderr, &ready_writer].map(AsFd::as_fd);
    let child = spawn::spawn(program.as_os_str(), &argv, &env, &fds)
        .map_err(at("start logging program", program))?;
    drop(ready_writer);
    match poll(
        &mut [PollFd::new(&ready, PollFlags::IN)],
        Some(&LOGGER_PATIENCE),
    ) {
        Ok(0) => Err(Status::internal(format!(
            "logging program {} did not close descriptor 5 within {} s",
            program.display(),
            LOGGER_PATIENCE.tv_sec
        ))),
        _ => Ok(child),
    }
}

fn open_fifo(path: &Path, access: OFlags) -> Result<OwnedFd, Status> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(at("open FIFO", path))?;
    let stat = rustix::fs::fstat(&fd).map_err(at("stat FIFO", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(Status::invalid(format!(
            "{} is not a FIFO; use file://{0} to append to a file",
            path.display()
        )));
    }
    Ok(fd)
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Status> {
    pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))
}

fn null() -> Result<OwnedFd, Status> {
    spawn::null().map_err(failed("open /dev/null"))
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Status> {
    let set = || rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK);
    set().map_err(failed("make a descriptor non-blocking"))
}

fn set_blocking(fd: &OwnedFd) -> Result<(), Status> {
    let set = || rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? - OFlags::NONBLOCK);
    set().map_err(failed("make a descriptor blocking"))
}

/// Adds to an error what was being done.
pub fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> Status {
    move |error| Status::internal(format!("{what}: {error}"))
}

/// Adds to an error what was being done to which path.
pub fn at<E: Display>(what: &'static str, path: &Path) -> impl Fn(E) -> Status {
    let path = path.display().to_string();
    move |error| Status::internal(format!("{what} {path}: {error}"))
}
