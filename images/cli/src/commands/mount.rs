use std::path::PathBuf;

use anyhow::Result;
use rrun_images::Store;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image mount busybox:1.36 /mnt")]
pub struct Mount {
    /// Name or id of the image
    image: String,
    /// Directory to mount it on, read-only
    target: PathBuf,
}

impl Mount {
    pub fn run(&self, store: &Store) -> Result<()> {
        Ok(store.mount(&self.image, &self.target)?)
    }
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image unmount /mnt")]
pub struct Unmount {
    /// Directories given to mount
    #[arg(required = true)]
    targets: Vec<PathBuf>,
}

impl Unmount {
    pub fn run(&self, store: &Store) -> Result<()> {
        for target in &self.targets {
            store.unmount(target)?;
        }
        Ok(())
    }
}
