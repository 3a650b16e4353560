use anyhow::Result;
use rrun_images::Store;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image release web")]
pub struct Release {
    /// Ids given to unpack (by default the last name of the bundle); the containers must be gone
    #[arg(required = true)]
    ids: Vec<String>,
}

impl Release {
    pub fn run(&self, store: &Store) -> Result<()> {
        for id in &self.ids {
            store.release(id)?;
        }
        Ok(())
    }
}
