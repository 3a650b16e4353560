use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image logout registry.example")]
pub struct Logout {
    /// Registry, as host or host:port
    registry: String,
    /// File that login wrote
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl Logout {
    pub fn run(&self) -> Result<()> {
        if !rrun_images::logout(&self.registry, self.authfile.as_deref())? {
            bail!("not logged in to {}", self.registry);
        }
        say(format!("logged out of {}", self.registry));
        Ok(())
    }
}
