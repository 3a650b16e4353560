//! `rrun create`.

use crate::args;
use crate::bundle::{Request, write_pid_file};
use crate::globals::Global;
use rrun_core::plan::Console;
use rrun_core::{Context, Result, create, explain};

/// Creates a container that waits for `rrun start`.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let request = Request::parse(parser, false)?;
    create(global, &request).with_context(|| args::failed("create"))
}

fn create(global: &Global, request: &Request) -> Result<u8> {
    rrun_core::spec::validate_id(&request.id)?;
    let console = request.console_socket.clone().map(Console::Path);
    let (plan, config) = request.plan(global, console)?;
    let steps = request.explain.before(&plan.id, || {
        Ok(explain::of_create(&plan, &global.root, true))
    })?;
    let created = create::create(&plan, &global.root, &config, true)?;
    request.explain.after(&steps);
    let pid = created.container.record.init_process_pid;
    let told = request
        .pid_file
        .as_ref()
        .map_or(Ok(()), |path| write_pid_file(path, pid))
        .and_then(|()| match &request.pidfd_socket {
            Some(path) => created.send_pidfd(path),
            None => Ok(()),
        });
    if let Err(error) = told {
        created.container.delete(true)?;
        return Err(error);
    }
    Ok(0)
}
