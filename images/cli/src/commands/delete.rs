use anyhow::Result;
use rrun_images::Reference;

use super::registry::RegistryArgs;
use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image delete registry.example/team/app:1")]
pub struct Delete {
    /// Name of the image at its registry; all its tags there go, and the store's images stay
    image: Reference,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Delete {
    pub fn run(&self) -> Result<()> {
        let options = self.registry.options()?;
        say(super::block_on(rrun_images::delete(&self.image, &options))?);
        Ok(())
    }
}
