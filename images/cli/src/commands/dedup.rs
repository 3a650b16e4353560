use anyhow::Result;
use rrun_images::Store;

use crate::text::{self, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image dedup")]
pub struct Dedup {
    /// A JSON object
    #[arg(long)]
    json: bool,
}

impl Dedup {
    pub fn run(&self, store: &Store) -> Result<()> {
        let done = store.dedup()?;
        if self.json {
            say(serde_json::to_string(&done)?);
        } else {
            let bytes = text::bytes(done.bytes);
            say(format!("{} files share {bytes} with others", done.files));
        }
        Ok(())
    }
}
