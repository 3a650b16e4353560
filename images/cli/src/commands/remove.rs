use anyhow::Result;
use rrun_images::{Removed, Store};

use crate::text::{self, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image remove busybox:1.36 alpine
  rrun-image remove --force 3f57d9401f8d")]
pub struct Remove {
    /// Names (an image goes with its last one) or ids (with all names)
    #[arg(required = true)]
    images: Vec<String>,
    /// An image that is not there is no error
    #[arg(long, short)]
    force: bool,
    /// One JSON object for each name or id
    #[arg(long)]
    json: bool,
}

impl Remove {
    pub fn run(&self, store: &Store) -> Result<()> {
        for name in &self.images {
            match store.remove(name) {
                Ok(removed) => tell(&removed, self.json)?,
                Err(error) if self.force && error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Prints what is gone.
pub fn tell(removed: &Removed, json: bool) -> Result<()> {
    if json {
        say(serde_json::to_string(removed)?);
        return Ok(());
    }
    removed
        .untagged
        .iter()
        .for_each(|name| say(format!("untagged {name}")));
    removed
        .images
        .iter()
        .for_each(|id| say(format!("removed {id}")));
    say(format!("freed {}", text::bytes(removed.bytes)));
    Ok(())
}
