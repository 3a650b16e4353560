use std::path::PathBuf;

use anyhow::Result;
use rrun_images::{Reference, Store};

use super::limits::LimitArgs;
use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image load busybox.tar
  rrun-image load --tag registry.example/app:1 app.tar.gz")]
pub struct Load {
    /// OCI layout directory, OCI archive or docker-archive, also compressed; - is standard input
    input: PathBuf,
    /// Name for the image, where the file has none or another is wanted
    #[arg(long, short)]
    tag: Option<Reference>,
    #[command(flatten)]
    limits: LimitArgs,
}

impl Load {
    pub fn run(&self, store: &Store) -> Result<()> {
        for id in store.load(&self.input, self.tag.as_ref(), &self.limits.limits())? {
            say(id);
        }
        Ok(())
    }
}
