//! containerd shim v2: keeps one container alive when every daemon is dead.
//!
//! One process, one thread, one epoll loop ([`server`]). A request is translated by [`service`],
//! allowed or refused by the pure life cycle in [`machine`], and done by running the OCI runtime
//! ([`runtime`]) without ever waiting for it: its exit is an event like any other.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod bootstrap;
mod cgroup;
mod command;
mod conn;
mod console;
mod container;
mod delete;
mod diag;
mod enter;
mod exits;
mod io;
mod life;
mod log;
mod machine;
mod mountinfo;
mod oom;
mod ops;
mod options;
mod output;
mod peer;
mod poll;
mod publish;
mod reaper;
mod rootfs;
mod runtime;
mod server;
mod service;
mod sock;
mod spawn;
mod stats;
mod stdin;
mod uri;

use args::{Action, Args};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(message) => return fail(&message),
    };
    let result = match args.action {
        Action::Version => {
            println!("containerd-shim-rrun-v2 {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info => bootstrap::info(),
        Action::Start => bootstrap::start(args),
        Action::Delete => delete::run(&args),
        Action::Serve => server::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("containerd-shim-rrun-v2: {message}");
    ExitCode::FAILURE
}
