use anyhow::Result;
use rrun_images::Store;

use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image inspect busybox:1.36
  rrun-image inspect 3f57d9401f8d")]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

impl Inspect {
    pub fn run(&self, store: &Store) -> Result<()> {
        for name in &self.images {
            say(serde_json::to_string_pretty(&store.inspect(name)?)?);
        }
        Ok(())
    }
}
