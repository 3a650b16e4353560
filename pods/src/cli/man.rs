//! `man`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use super::output::print;

/// `rrun-pods man DIRECTORY`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods man /usr/local/share/man/man1
  rrun-pods man > rrun-pods.1")]
pub struct Options {
    /// Directory for a page for each command; without it the program's own goes to standard output.
    directory: Option<PathBuf>,
}

/// Runs it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let command = super::Program::command();
    let Some(directory) = &options.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        print(&String::from_utf8_lossy(&page));
        return Ok(());
    };
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory))
        .with_context(|| format!("{}: the pages cannot be written", directory.display()))
}
