//! `backup` and `restore`: the whole state in one file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::http::Api;
use super::output::print;
use crate::api::http::tls::write_secret;
use crate::backup;

/// `rrun-pods backup state.backup`.
#[derive(Debug, Args)]
#[command(
    after_help = "The file has every object that survives a restart, Secrets too, and the keys of the API:
keep it as you keep a root password. What is in volumes is not in it.

Examples:
  rrun-pods backup /root/pods.backup"
)]
pub struct Options {
    /// Where to; replaced whole when it is there.
    file: PathBuf,
}

/// `rrun-pods restore state.backup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods restore /root/pods.backup
  rrun-pods restore /root/pods.backup --root /srv/pods --replace")]
pub struct RestoreOptions {
    /// Where from.
    file: PathBuf,
    /// Directory of the durable state; no rrun-pods may run on it.
    #[arg(long, default_value = "/var/lib/rrun/pods")]
    root: PathBuf,
    /// Put the state that is there aside.
    #[arg(long)]
    replace: bool,
}

/// Saves the state of the rrun-pods that runs.
pub async fn run(api: &Api, options: &Options) -> anyhow::Result<()> {
    let text = api.get_text("/backup").await?;
    let saved = backup::decode(&text).context("what the server sent")?;
    let file = std::path::absolute(&options.file)?;
    write_secret(&file, &text).with_context(|| options.file.display().to_string())?;
    let (objects, version) = (saved.snapshot.objects.len(), saved.snapshot.version);
    print(&format!(
        "{}: {objects} objects at version {version}\n",
        options.file.display()
    ));
    Ok(())
}

/// Puts a saved state where the next rrun-pods finds it.
pub fn restore(options: &RestoreOptions, socket: &Path) -> anyhow::Result<()> {
    let shown = options.file.display();
    let text = std::fs::read_to_string(&options.file).with_context(|| shown.to_string())?;
    let saved = backup::decode(&text).with_context(|| shown.to_string())?;
    anyhow::ensure!(
        std::os::unix::net::UnixStream::connect(socket).is_err(),
        "rrun-pods runs on {}: end it first",
        socket.display()
    );
    std::fs::create_dir_all(&options.root).with_context(|| options.root.display().to_string())?;
    let kept = backup::restore(&saved, &options.root, options.replace)?;
    let objects = saved.snapshot.objects.len();
    print(&format!("{}: {objects} objects\n", options.root.display()));
    if let Some(kept) = kept {
        print(&format!("what was there is in {}\n", kept.display()));
    }
    Ok(())
}
