use anyhow::Result;
use rrun_images::{Removed, Store};

use crate::text::{self, say};

#[derive(clap::Args)]
pub struct Remove {
    /// Names (an image goes with its last one) or ids (with all names)
    #[arg(required = true)]
    images: Vec<String>,
    /// An image that is not there is no error
    #[arg(long, short)]
    force: bool,
}

impl Remove {
    pub fn run(&self, store: &Store) -> Result<()> {
        for name in &self.images {
            match store.remove(name) {
                Ok(removed) => tell(&removed),
                Err(error) if self.force && error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Prints what is gone.
pub fn tell(removed: &Removed) {
    removed
        .untagged
        .iter()
        .for_each(|name| say(format!("untagged {name}")));
    removed
        .images
        .iter()
        .for_each(|id| say(format!("removed {id}")));
    say(format!("freed {}", text::bytes(removed.bytes)));
}
