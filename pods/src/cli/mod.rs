//! The command line: `rrun-pods get pods` and its siblings, in kubectl's words.
//!
//! Every command but `serve` is a client of the API, over its unix socket or `--server`.

mod apply;
mod autoscale;
mod backup;
mod capsule;
mod columns;
mod completion;
mod custom;
mod delete;
mod describe;
mod exec;
mod get;
mod http;
mod install;
mod kinds;
mod logs;
mod man;
pub(crate) mod manifest;
mod output;
mod port_forward;
mod rollout;
mod scale;
mod set;
mod top;
mod up;
mod wait;
mod web;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::serve;
use http::Api;

/// Runs Kubernetes YAML on one machine, and heals it.
#[derive(Debug, Parser)]
#[command(name = "rrun-pods", version, after_help = EXAMPLES)]
struct Program {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  rrun-pods up                          run everything on this machine, rrun-cri included
  rrun-pods serve                       run the API, the scheduler, the controllers and the node agent
  rrun-pods apply -f web.yaml           create or change what a manifest says
  rrun-pods get pods -o wide            list pods
  rrun-pods logs -f deployment/web      follow the log of a pod of a Deployment
  rrun-pods exec -it web -- sh          a shell in a pod
  rrun-pods rollout undo deployment/web go back to the last revision";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Unix socket of the API.
    #[arg(long, global = true, default_value = "/run/rrun-pods/api.sock")]
    pub socket: PathBuf,
    /// Address of the API over TCP, as http://127.0.0.1:8080, instead of the unix socket.
    #[arg(short, long, global = true)]
    pub server: Option<String>,
    /// Namespace.
    #[arg(short, long, global = true, default_value = "default")]
    pub namespace: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the Kubernetes API and run what it is told of.
    Serve(Box<serve::Options>),
    /// Run everything on this machine: rrun-cri, unless it runs, and `serve`.
    Up(Box<up::Options>),
    /// Write units of systemd and start them, or remove them again.
    Install(install::Options),
    /// Serve a page that shows what runs, for this machine alone.
    Web(web::Options),
    /// Remove every workload and Service.
    Down(up::DownOptions),
    /// Save the whole state in one file, while it is in use.
    Backup(backup::Options),
    /// Put a saved state where the next start finds it.
    Restore(backup::RestoreOptions),
    /// Create or change what manifests say.
    Apply(apply::Options),
    /// List objects, or show some.
    Get(get::Options),
    /// Show objects with all that belongs to them.
    Describe(describe::Options),
    /// Show the log of a container.
    Logs(logs::Options),
    /// Show what a container that failed left.
    Capsule(capsule::Options),
    /// Run a command in a container.
    Exec(exec::Options),
    /// Connect to a running container.
    Attach(exec::AttachOptions),
    /// Delete objects.
    Delete(delete::Options),
    /// Set how many replicas run.
    Scale(scale::Options),
    /// Let the number of replicas follow what their pods use.
    Autoscale(autoscale::Options),
    /// Set an image of a Deployment, ReplicaSet or Pod.
    #[command(subcommand)]
    Set(set::Command),
    /// Watch, undo, restart, pause or resume a rollout.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Forward local ports to a pod.
    PortForward(port_forward::Options),
    /// Show what pods or the node use.
    #[command(subcommand)]
    Top(top::Command),
    /// Wait for a condition of objects.
    Wait(wait::Options),
    /// Write a completion script for a shell.
    Completion(completion::Options),
    /// Write manual pages.
    Man(man::Options),
}

/// Runs the program with its arguments; the first is the program's own name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let program = Program::parse_from(args);
    let done = match program.command {
        Command::Serve(mut options) => {
            options.socket = program.global.socket;
            serve::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Completion(options) => {
            completion::run(&options);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man(options) => man::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Install(options) => install::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Restore(options) => {
            backup::restore(&options, &program.global.socket).map(|()| ExitCode::SUCCESS)
        }
        Command::Up(options) => {
            up::run(*options, &program.global.socket).map(|()| ExitCode::SUCCESS)
        }
        command => client(program.global, command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("rrun-pods: {error:#}");
        ExitCode::FAILURE
    })
}

fn client(global: Global, command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let api = Api::new(&global)?;
    let done = runtime.block_on(dispatch(&api, &global.namespace, command));
    // A read of the terminal that is under way is not waited for.
    runtime.shutdown_background();
    done
}

async fn dispatch(api: &Api, namespace: &str, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(_)
        | Command::Up(_)
        | Command::Restore(_)
        | Command::Install(_)
        | Command::Completion(_)
        | Command::Man(_) => unreachable!("served by the caller"),
        Command::Web(options) => web::run(api, &options).await,
        Command::Backup(options) => backup::run(api, &options).await,
        Command::Down(options) => up::down(api, &options).await,
        Command::Exec(options) => return exec::exec(api, namespace, options).await,
        Command::Attach(options) => return exec::attach(api, namespace, options).await,
        Command::Apply(options) => apply::run(api, namespace, &options).await,
        Command::Get(options) => get::run(api, namespace, &options).await,
        Command::Describe(options) => describe::run(api, namespace, &options).await,
        Command::Capsule(options) => capsule::run(api, namespace, &options).await,
        Command::Logs(options) => logs::run(api, namespace, &options).await,
        Command::Delete(options) => delete::run(api, namespace, &options).await,
        Command::Scale(options) => scale::run(api, namespace, &options).await,
        Command::Autoscale(options) => autoscale::run(api, namespace, &options).await,
        Command::Set(command) => set::run(api, namespace, &command).await,
        Command::Rollout(command) => rollout::run(api, namespace, &command).await,
        Command::PortForward(options) => port_forward::run(api, namespace, &options).await,
        Command::Top(command) => top::run(api, namespace, &command).await,
        Command::Wait(options) => wait::run(api, namespace, &options).await,
    }
    .map(|()| ExitCode::SUCCESS)
}
