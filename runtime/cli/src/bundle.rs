//! What `create` and `run` share: options, and the plan made from them.

use crate::args;
use crate::explain::Explain;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::plan::{Console, Options, Plan};
use rrun_core::{Error, Result, sdnotify, spec};
use std::path::{Path, PathBuf};

/// Options of `create` and `run`.
#[derive(Debug, Default)]
pub struct Request {
    /// Container id.
    pub id: String,
    /// `--bundle`.
    pub bundle: PathBuf,
    /// `--config`: another file than config.json of the bundle.
    pub config: Option<PathBuf>,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--console-socket`.
    pub console_socket: Option<PathBuf>,
    /// `--pidfd-socket`.
    pub pidfd_socket: Option<PathBuf>,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// `--no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--detach` (`run`).
    pub detach: bool,
    /// `--keep` (`run`).
    pub keep: bool,
    /// `--explain`.
    pub explain: Explain,
    /// `--no-subreaper`; without effect on `create`, as crun takes it.
    pub no_subreaper: bool,
}

impl Request {
    /// Parses the options of `create`, or with `run` those of `run`.
    pub fn parse(mut parser: Parser, run: bool) -> Result<Self> {
        let mut request = Self {
            bundle: PathBuf::from("."),
            ..Self::default()
        };
        while let Some(arg) = parser.next().map_err(args::usage)? {
            match arg {
                Arg::Short('b') | Arg::Long("bundle") => request.bundle = args::path(&mut parser)?,
                Arg::Short('f') | Arg::Long("config") => {
                    request.config = Some(args::path(&mut parser)?);
                }
                Arg::Long("pid-file") => request.pid_file = Some(args::path(&mut parser)?),
                Arg::Long("console-socket") => {
                    request.console_socket = Some(args::path(&mut parser)?);
                }
                Arg::Long("pidfd-socket") => {
                    request.pidfd_socket = Some(args::path(&mut parser)?);
                }
                Arg::Long("explain") => request.explain = Explain::parse(&mut parser)?,
                Arg::Long("no-pivot") => request.no_pivot = args::switch(&mut parser)?,
                Arg::Long("no-new-keyring") => request.no_new_keyring = args::switch(&mut parser)?,
                Arg::Long("preserve-fds") => request.preserve_fds = args::number(&mut parser)?,
                Arg::Short('d') | Arg::Long("detach") if run => {
                    request.detach = args::switch(&mut parser)?;
                }
                Arg::Long("keep") if run => request.keep = args::switch(&mut parser)?,
                Arg::Long("no-subreaper") => {
                    request.no_subreaper = args::switch(&mut parser)?;
                }
                Arg::Value(id) if request.id.is_empty() => request.id = args::string(id)?,
                other => return Err(args::unexpected(other)),
            }
        }
        if request.id.is_empty() {
            return Err(args::no_id(if run { "run" } else { "create" }));
        }
        Ok(request)
    }

    /// Loads the configuration and plans; returns config.json's bytes as well.
    pub fn plan(&self, global: &Global, console: Option<Console>) -> Result<(Plan, Vec<u8>)> {
        let bundle = std::path::absolute(&self.bundle)
            .map_err(|e| Error::file("resolve", &self.bundle, e))?;
        let no_bundle = || format!("bundle {} is not a directory", bundle.display());
        let (mut spec, text) = match &self.config {
            Some(_) if !bundle.is_dir() => return Err(Error::Usage(no_bundle())),
            Some(config) => spec::load(config)?,
            // Only a directory has a file in it.
            None => match spec::load(&bundle.join("config.json")) {
                Err(_) if !bundle.is_dir() => return Err(Error::Usage(no_bundle())),
                loaded => loaded?,
            },
        };
        if let Some(process) = spec.process_mut() {
            args::announce_listen_fds(process);
        }
        let notify = sdnotify::host().is_some();
        if notify {
            sdnotify::add_to(&mut spec, &global.root, &self.id)?;
        }
        let options = Options {
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds + args::listen_fds(),
            notify,
            console,
            manager: global.manager,
        };
        let plan = Plan::new(&self.id, &bundle, spec, options, global.is_rootless())?;
        Ok((plan, text))
    }
}

/// Writes a pid file, all at once: whoever waits for it never reads half of it.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            Error::file("write", path, e)
        })
}
