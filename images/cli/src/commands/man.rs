use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image man /usr/local/share/man/man1
  rrun-image man > rrun-image.1")]
pub struct Man {
    /// Directory for a page for each command; without it the program's own goes to standard output
    directory: Option<PathBuf>,
}

impl Man {
    pub fn run(&self) -> Result<()> {
        let command = crate::Cli::command();
        let Some(directory) = &self.directory else {
            return Ok(clap_mangen::Man::new(command).render(&mut std::io::stdout())?);
        };
        std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(command, directory))
            .with_context(|| format!("write to {}", directory.display()))
    }
}
