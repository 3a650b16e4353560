use anyhow::Result;
use rrun_images::Store;

#[derive(clap::Args)]
pub struct Prune {
    /// Also images with a name that no container uses
    #[arg(long, short)]
    all: bool,
}

impl Prune {
    pub fn run(&self, store: &Store) -> Result<()> {
        super::remove::tell(&store.prune(self.all)?);
        Ok(())
    }
}
