use anyhow::Result;
use rrun_images::Store;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image prune
  rrun-image prune --all")]
pub struct Prune {
    /// Also images with a name that no container uses
    #[arg(long, short)]
    all: bool,
    /// A JSON object
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub fn run(&self, store: &Store) -> Result<()> {
        super::remove::tell(&store.prune(self.all)?, self.json)
    }
}
