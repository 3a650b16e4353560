//! CRI v1 server: the socket that a kubelet plugs into.
#![forbid(unsafe_code)]

mod bundle;
mod cgroups;
mod config;
mod container;
mod daemon;
mod error;
mod events;
mod exec;
mod id;
mod network;
mod recover;
mod rpc;
mod sandbox;
mod server;
mod shims;
mod stats;
mod store;
mod streaming;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// CRI v1 server: the socket that a kubelet plugs into.
#[derive(Parser)]
#[command(name = "rrun-cri", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: config::Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Serve CRI until told to end; what is done without a command
    Serve(config::Flags),
}

fn main() -> ExitCode {
    // Not for people, and as small as can be: no arguments are parsed.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|a| a == sandbox::init::COMMAND)
    {
        return match sandbox::init::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let cli = Cli::parse();
    let flags = match cli.command {
        Some(Command::Serve(flags)) => flags,
        None => cli.flags,
    };
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rrun-cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &config::Flags) -> Result<()> {
    let filter = EnvFilter::try_new(&flags.log)
        .with_context(|| format!("--log {}: not a filter", flags.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if flags.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    let config = config::Config::from_flags(flags)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?
        .block_on(server::serve(config))
}
