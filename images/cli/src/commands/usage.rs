use anyhow::Result;
use rrun_images::{DiskUsage, Store};

use crate::text::{self, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image usage
  rrun-image usage --json")]
pub struct Usage {
    /// JSON, with bytes and inodes of each part
    #[arg(long)]
    json: bool,
}

impl Usage {
    pub fn run(&self, store: &Store) -> Result<()> {
        let usage = store.disk_usage()?;
        if self.json {
            let mut value = serde_json::to_value(usage)?;
            value["total"] = serde_json::to_value(usage.total())?;
            say(serde_json::to_string_pretty(&value)?);
            return Ok(());
        }
        let DiskUsage {
            layers,
            blobs,
            downloads,
            builds,
            other,
        } = usage;
        let rows = [
            ("layers", layers),
            ("blobs", blobs),
            ("downloads", downloads),
            ("builds", builds),
            ("other", other),
            ("total", usage.total()),
        ];
        let row = |(what, usage): (&str, rrun_images::Usage)| {
            let (bytes, inodes) = (text::bytes(usage.bytes), usage.inodes.to_string());
            [what.to_owned(), bytes, inodes]
        };
        say(text::table(["WHAT", "SIZE", "INODES"], rows.map(row)));
        Ok(())
    }
}
