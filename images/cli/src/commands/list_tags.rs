use anyhow::Result;
use rrun_images::Reference;

use super::registry::RegistryArgs;
use crate::text::{plain, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image list-tags registry.example/team/app
  rrun-image list-tags --json busybox")]
pub struct ListTags {
    /// Repository at its registry; a tag behind it says nothing here
    repository: Reference,
    /// JSON, as skopeo's
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl ListTags {
    pub fn run(&self) -> Result<()> {
        let options = self.registry.options()?;
        let tags = super::block_on(rrun_images::tags(&self.repository, &options))?;
        if self.json {
            let list = serde_json::json!({"Repository": self.repository.name(), "Tags": tags});
            say(serde_json::to_string_pretty(&list)?);
            return Ok(());
        }
        for tag in &tags {
            say(plain(tag));
        }
        Ok(())
    }
}
