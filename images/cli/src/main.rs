//! Image tool of rrun: pull, push, build, list, inspect, unpack.
#![forbid(unsafe_code)]

mod commands;
mod progress;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rrun_images::LayerFormat;

const EXAMPLES: &str = "Examples:
  rrun-image pull busybox:1.36
  rrun-image unpack busybox:1.36 b -- sh -c 'echo hello'
  rrun run -b b hello
  rrun-image build . --tag registry.example/team/app:1
  rrun-image push registry.example/team/app:1";

/// Pulls, makes, keeps and pushes container images.
#[derive(Parser)]
#[command(name = "rrun-image", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Directory of the image store [default: /var/lib/rrun/images; without root
    /// $XDG_DATA_HOME/rrun/images, else ~/.local/share/rrun/images]
    #[arg(long, global = true, env = "RRUN_IMAGE_STORE")]
    store: Option<PathBuf>,
    /// What new layers are kept as: overlayfs (directories; without root, stacked by fuse-overlayfs
    /// where the kernel refuses), fuse-overlayfs (the same, by that in any case), erofs (image
    /// files, protected by fs-verity where the file system has it), erofs-verity (the same, and
    /// refused without) [default: overlayfs]
    #[arg(long, global = true, env = "RRUN_IMAGE_SNAPSHOTTER")]
    snapshotter: Option<LayerFormat>,
    /// Tell more on standard error (RUST_LOG filters it)
    #[arg(long, global = true)]
    debug: bool,
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.debug);
    match cli.command.run(cli.store.as_deref(), cli.snapshotter) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rrun-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(debug: bool) {
    use tracing_subscriber::EnvFilter;
    let default = if debug { "debug" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
}
