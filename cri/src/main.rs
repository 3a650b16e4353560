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
mod progress;
mod pulls;
mod recover;
mod reload;
mod rest;
mod rpc;
mod sandbox;
mod selinux;
mod server;
mod shims;
mod stats;
mod store;
mod streaming;
mod trace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use config::LogFormat;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

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
    /// Show the pulls of images that a running daemon has under way
    Pulls(Box<progress::Command>),
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
        Some(Command::Pulls(command)) => progress::run(&command),
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
    // Before there is a second thread: each would get a heap of its own, and keep what it once needed.
    rrun_sys::mem::limit_heaps(2);
    let (config, live) = config::load(&flags)?;
    let filter = EnvFilter::try_new(&live.log).context("the log's filter")?;
    let traces = config.traces.clone();
    let traces = traces.map(|(endpoint, rate)| trace::pair(endpoint, rate));
    let (spans, exporter) = traces.transpose()?.unzip();
    let set_filter = log(config.log_format, filter, spans);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(512 * 1024)
        // Stacks and heaps of threads that had a burst of work: gone before the daemon rests.
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?
        .block_on(server::serve(config, live, flags, set_filter, exporter))
}

/// Begins the log, and the traces where they are asked for: these see what the log's filter hides.
fn log(format: LogFormat, filter: EnvFilter, spans: Option<trace::Spans>) -> reload::SetFilter {
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    // Colours are for terminals, and most logs are not read in one.
    macro_rules! text {
        () => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(false)
        };
    }
    macro_rules! json {
        () => {
            text!().json().flatten_event(true)
        };
    }
    let all = tracing_subscriber::registry();
    match (format, spans) {
        (LogFormat::Json, None) => all.with(filter).with(json!()).init(),
        (LogFormat::Text, None) => all.with(filter).with(text!()).init(),
        (LogFormat::Json, Some(spans)) => {
            let spans = spans.with_filter(trace::Spans::filter());
            all.with(json!().with_filter(filter)).with(spans).init();
        }
        (LogFormat::Text, Some(spans)) => {
            let spans = spans.with_filter(trace::Spans::filter());
            all.with(text!().with_filter(filter)).with(spans).init();
        }
    }
    Box::new(move |filter| Ok(handle.reload(filter)?))
}
