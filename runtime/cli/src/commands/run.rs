//! `rrun run`.

use crate::args::{self, Global};
use crate::bundle::{Request, write_pid_file};
use crate::foreground::{self, Terminal};
use rrun_core::create::{self, Created};
use rrun_core::plan::Console;
use rrun_core::{Context, Result, explain};

/// Creates and starts a container; unless detached, waits for it, passes on
/// signals and its terminal, and deletes it.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let request = Request::parse(parser, true)?;
    let mut relay = None;
    let console = match &request.console_socket {
        Some(path) => Some(Console::Path(path.clone())),
        None if request.detach => None,
        None => Terminal::console(&mut relay)?,
    };
    let (plan, config) = request.plan(global, console)?;
    let terminal = plan
        .spec
        .process()
        .as_ref()
        .and_then(rrun_core::oci::Process::terminal);
    let plan = if terminal != Some(true) && request.console_socket.is_none() {
        relay = None;
        let options = rrun_core::plan::Options {
            console: None,
            ..plan.options
        };
        rrun_core::plan::Plan { options, ..plan }
    } else {
        plan
    };
    let signals = if request.detach {
        None
    } else {
        if !request.no_subreaper {
            rrun_sys::cred::set_subreaper(true)?;
        }
        Some(foreground::signals()?)
    };
    let steps = request.explain.before(&plan.id, || {
        Ok(explain::of_create(&plan, &global.root, false))
    })?;
    let failed = || args::failed("run");
    let created = create::create(&plan, &global.root, &config, false).with_context(failed)?;
    let terminal = match start(&created, &request, relay) {
        Ok(terminal) => terminal,
        Err(error) => {
            remove(created);
            // From here on runc's init speaks for itself, without a log line around it.
            if global.log.is_none() {
                eprintln!("{}", error.chain());
                return Ok(1);
            }
            return Err(error).with_context(failed);
        }
    };
    request.explain.after(&steps);
    let Some(signals) = signals else { return Ok(0) };
    let pid = created.container.record.init_process_pid;
    let code = foreground::wait(pid, &signals, terminal)?;
    if request.keep {
        return Ok(code);
    }
    created.container.destroy()?;
    Ok(code)
}

fn start(
    created: &Created,
    request: &Request,
    relay: Option<Terminal>,
) -> Result<Option<Terminal>> {
    if let Some(path) = &request.pid_file {
        write_pid_file(path, created.container.record.init_process_pid)?;
    }
    if let Some(path) = &request.pidfd_socket {
        created.send_pidfd(path)?;
    }
    let terminal = relay.map(Terminal::receive).transpose()?;
    created.start()?;
    Ok(terminal)
}

/// Removes a container that could not be started.
fn remove(created: Created) {
    let pid = created.container.record.init_process_pid;
    let killed = created.container.kill_all();
    let _ = rrun_sys::process::wait(pid, false);
    if let Err(error) = killed.and_then(|()| created.container.destroy()) {
        rrun_core::warning!("remove the container: {}", error.chain());
    }
}
