use anyhow::Result;
use rrun_images::{Reference, Store};

use super::registry::RegistryArgs;
use crate::progress::ProgressArgs;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image push registry.example/team/app:1
  rrun-image push app:1 127.0.0.1:5000/team/app:1")]
pub struct Push {
    /// Name or id of the image
    image: String,
    /// Name to push it as; the image's own by default
    target: Option<Reference>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl Push {
    pub fn run(&self, store: &Store) -> Result<()> {
        let target = match &self.target {
            Some(target) => target.clone(),
            None => self.image.parse()?,
        };
        let options = self.registry.options()?;
        let sink = self.progress.sink("pushing");
        let digest = super::block_on(store.push(&self.image, &target, &options, sink))?;
        self.progress.result("digest", &digest);
        Ok(())
    }
}
