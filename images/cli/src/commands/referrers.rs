use anyhow::Result;
use rrun_images::Reference;

use super::registry::RegistryArgs;
use crate::text::{self, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image referrers registry.example/team/app:1")]
pub struct Referrers {
    /// Name of the image at its registry
    image: Reference,
    /// JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Referrers {
    pub fn run(&self) -> Result<()> {
        let options = self.registry.options()?;
        let found = super::block_on(rrun_images::referrers(&self.image, &options))?;
        if self.json {
            say(serde_json::to_string_pretty(&found)?);
            return Ok(());
        }
        let rows = found.iter().map(|referrer| {
            [
                referrer.digest.to_string(),
                text::bytes(referrer.size),
                text::plain(&referrer.artifact_type),
            ]
        });
        say(text::table(["DIGEST", "SIZE", "TYPE"], rows));
        Ok(())
    }
}
