//! `rrun restore`.

use super::checkpoint;
use crate::args;
use crate::bundle::{Request, write_pid_file};
use crate::foreground::{self, Terminal};
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::criu::{self, Options};
use rrun_core::plan::Console;
use rrun_core::{Context, Result};
use std::path::PathBuf;

/// Help text.
pub const HELP: &str = "\
restore a container from a checkpoint

USAGE:
    rrun restore [OPTIONS] CONTAINER-ID

OPTIONS:
    -b, --bundle DIR         directory of config.json and the root file system [.]
    --image-path DIR         where the image files are [./checkpoint]
    --work-path DIR          where logs go [the image path]
    -d, --detach             return as soon as the container runs
    --pid-file FILE          write the process id of the first process to FILE
    --console-socket PATH    unix socket that the master of the terminal is sent to
    --no-subreaper           do not adopt the container's orphans
    --no-pivot               has no meaning here; runc's callers give it
    --tcp-established        restore established connections
    --ext-unix-sk            allow unix sockets to outside
    --shell-job              allow a terminal from outside
    --file-locks             restore file locks
    --lazy-pages             take memory from a lazy pages daemon
    --manage-cgroups-mode M  soft, full, strict or ignore [soft]
    --empty-ns network       leave the network namespace empty
    --auto-dedup             drop memory from the images as it is restored
    --lsm-profile TYPE:NAME  another profile: apparmor or selinux
    --lsm-mount-context C    another SELinux context for mounts

EXAMPLES:
    rrun restore --image-path /backup/web --bundle /containers/web --detach web
";

/// What the options say.
fn parse(mut parser: Parser) -> Result<(Request, Options)> {
    let mut request = Request {
        bundle: PathBuf::from("."),
        ..Request::default()
    };
    let mut options = Options {
        images: PathBuf::from("checkpoint"),
        ..Options::default()
    };
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('b') | Arg::Long("bundle") => request.bundle = args::path(&mut parser)?,
            Arg::Short('d') | Arg::Long("detach") => request.detach = args::switch(&mut parser)?,
            Arg::Long("pid-file") => request.pid_file = Some(args::path(&mut parser)?),
            Arg::Long("console-socket") => {
                request.console_socket = Some(args::path(&mut parser)?);
            }
            Arg::Long("no-subreaper") => request.no_subreaper = args::switch(&mut parser)?,
            Arg::Long("no-pivot") => drop(args::switch(&mut parser)?),
            Arg::Long("lsm-profile") => options.lsm_profile = Some(args::text(&mut parser)?),
            Arg::Long("lsm-mount-context") => {
                options.lsm_mount_context = Some(args::text(&mut parser)?);
            }
            Arg::Long(name) => {
                let name = name.to_owned();
                if !checkpoint::shared(&mut options, &name, &mut parser)? {
                    return Err(args::unexpected(Arg::Long(&name)));
                }
            }
            Arg::Value(id) if request.id.is_empty() => request.id = args::string(id)?,
            other => return Err(args::unexpected(other)),
        }
    }
    if request.id.is_empty() {
        return Err(args::no_id("restore"));
    }
    rrun_core::spec::validate_id(&request.id)?;
    Ok((request, options))
}

/// Restores a container; unless detached, waits for it, as `run` does.
pub fn run(global: &Global, parser: Parser) -> Result<u8> {
    let (request, options) = parse(parser)?;
    let mut relay = None;
    let console = match &request.console_socket {
        Some(path) => Some(Console::Path(path.clone())),
        None if request.detach => None,
        None => Terminal::console(&mut relay)?,
    };
    let (plan, config) = request.plan(global, console)?;
    let process = plan.spec.process().as_ref();
    if process.and_then(rrun_core::oci::Process::terminal) != Some(true) {
        relay = None;
    }
    let signals = if request.detach {
        None
    } else {
        if !request.no_subreaper {
            rrun_sys::cred::set_subreaper(true)?;
        }
        Some(foreground::signals()?)
    };
    let restored = criu::restore(&plan, &global.root, &config, &options)
        .with_context(|| args::failed("restore"))?;
    let pid = restored.container.record.init_process_pid;
    if let Some(path) = &request.pid_file {
        write_pid_file(path, pid)?;
    }
    let terminal = relay.map(Terminal::receive).transpose()?;
    let Some(signals) = signals else { return Ok(0) };
    let code = foreground::wait(pid, &signals, terminal)?;
    restored.container.destroy()?;
    Ok(code)
}
