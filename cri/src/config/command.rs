//! `rrun-cri config`.

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{Flags, effective, file};

/// What to do with the configuration.
#[derive(Subcommand)]
pub enum Command {
    /// Print every key with its default, explained
    Default,
    /// Check the configuration as `serve` does, and print what it comes to
    Check(Box<Flags>),
}

/// Runs the command.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Default => print!("{}", file::DEFAULT),
        Command::Check(flags) => {
            let file = effective(flags)?;
            print!(
                "{}",
                toml::to_string(&file).context("print the configuration")?
            );
        }
    }
    Ok(())
}
