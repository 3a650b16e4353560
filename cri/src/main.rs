//! CRI v1 server: the socket that a kubelet plugs into.
#![forbid(unsafe_code)]

mod apparmor;
mod bundle;
mod cdi;
mod cgroups;
mod checkpoint;
mod config;
mod container;
mod daemon;
mod error;
mod events;
mod exec;
mod id;
mod metrics;
mod network;
mod notify;
mod nri;
mod recover;
mod reload;
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
    Serve(Box<config::Flags>),
    /// Print the default configuration, or check the machine's
    #[command(subcommand)]
    Config(config::command::Command),
}

fn main() -> ExitCode {
    if let Some(result) = helper() {
        return match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let cli = Cli::parse();
    let ended = match cli.command {
        Some(Command::Config(command)) => config::command::run(&command),
        Some(Command::Serve(flags)) => run(*flags),
        None => run(cli.flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rrun-cri: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The commands that are not for people: this program as a process of a pod. As small as can be, so
/// no arguments are parsed.
fn helper() -> Option<Result<()>> {
    match std::env::args_os().nth(1)?.to_str()? {
        sandbox::init::COMMAND => Some(sandbox::init::run()),
        sandbox::users::COMMAND => Some(sandbox::users::run()),
        _ => None,
    }
}

fn run(flags: config::Flags) -> Result<()> {
    let (config, live) = config::load(&flags)?;
    let filter = EnvFilter::try_new(&live.log).context("the log's filter")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Colours are for terminals, and most logs are not read in one.
    let set_filter: reload::SetFilter = if config.log_format == config::LogFormat::Json {
        let log = log.json().flatten_event(true).with_filter_reloading();
        let handle = log.reload_handle();
        log.init();
        Box::new(move |filter| Ok(handle.reload(filter)?))
    } else {
        let log = log.with_ansi(false).with_filter_reloading();
        let handle = log.reload_handle();
        log.init();
        Box::new(move |filter| Ok(handle.reload(filter)?))
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?
        .block_on(server::serve(config, live, flags, set_filter))
}
