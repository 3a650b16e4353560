use anyhow::Result;
use rrun_images::{Reference, Store};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image tag busybox:1.36 registry.example/base:1")]
pub struct Tag {
    /// Name or id of the image
    image: String,
    /// The new name; taken from the image that has it
    new: Reference,
}

impl Tag {
    pub fn run(&self, store: &Store) -> Result<()> {
        Ok(store.tag(&self.image, &self.new)?)
    }
}
