//! `rrun run`.

use crate::args;
use crate::bundle::{Request, write_pid_file};
use crate::foreground::{self, Terminal};
use crate::globals::Global;
use rrun_core::container::Container;
use rrun_core::create::{self, Created};
use rrun_core::plan::Console;
use rrun_core::sdnotify::Listener;
use rrun_core::{Context, Error, Result, explain};

/// Creates and starts a container; unless detached, waits for it, passes on
/// signals and its terminal, and deletes it.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let request = Request::parse(parser, true)?;
    execute(global, &request).with_context(|| args::failed("run"))
}

fn execute(global: &Global, request: &Request) -> Result<u8> {
    rrun_core::spec::validate_id(&request.id)?;
    let console = request.console_socket.clone().map(Console::Path);
    let (mut plan, config) = request.plan(global, console)?;
    let mut relay = None;
    let process = plan.spec.process().as_ref();
    let terminal = process.and_then(rrun_core::oci::Process::terminal);
    if terminal == Some(true) && request.console_socket.is_none() && !request.detach {
        plan.options.console = Terminal::console(&mut relay)?;
    }
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
    let created = create::create(&plan, &global.root, &config, false)?;
    let started = Listener::open(&created.container)
        .and_then(|listener| Ok((listener, start(&created, request, relay)?)));
    let (listener, terminal) = match started {
        Ok(started) => started,
        Err(error) => {
            remove(created);
            // runc's init speaks for itself by now, without a log line around it.
            if matches!(error, Error::Remote(_)) && global.log.is_none() {
                eprintln!("{}", error.chain());
                return Ok(1);
            }
            return Err(error);
        }
    };
    request.explain.after(&steps);
    let Some(signals) = signals else {
        if let Some(listener) = listener {
            listener.relay(&created.container)?;
        }
        return Ok(0);
    };
    if let Some(listener) = listener {
        relay_beside(listener, global, &request.id)?;
    }
    let pid = created.container.record.init_process_pid;
    let code = foreground::wait(pid, &signals, terminal)?;
    if !request.keep {
        created.destroy()?;
    }
    // Closed by the end of the program, which is next.
    std::mem::forget(signals);
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

/// Waits for the container's word to systemd while this thread waits for its end.
fn relay_beside(listener: Listener, global: &Global, id: &str) -> Result<()> {
    let container = Container::load(&global.root, id)?;
    std::thread::spawn(move || {
        if let Err(error) = listener.relay(&container) {
            rrun_core::warning!("{}", error.chain());
        }
    });
    Ok(())
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
