use anyhow::Result;
use rrun_images::{ChangeKind, Store};

use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image diff web")]
pub struct Diff {
    /// Id given to unpack (by default the last name of the bundle)
    id: String,
    /// JSON
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub fn run(&self, store: &Store) -> Result<()> {
        let changes = store.diff(&self.id)?;
        if self.json {
            say(serde_json::to_string_pretty(&changes)?);
            return Ok(());
        }
        for change in changes {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                ChangeKind::Deleted => 'D',
            };
            let path: String = change.path.chars().filter(|c| !c.is_control()).collect();
            say(format!("{letter} /{path}"));
        }
        Ok(())
    }
}
