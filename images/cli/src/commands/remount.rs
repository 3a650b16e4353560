use anyhow::{Error, Result};
use rrun_images::Store;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image remount
  rrun-image remount web")]
pub struct Remount {
    /// Ids given to unpack (by default the last name of the bundle); all without one
    ids: Vec<String>,
}

impl Remount {
    pub fn run(&self, store: &Store) -> Result<()> {
        let failed = store.remount(&self.ids)?;
        let mut failed = failed
            .into_iter()
            .map(|(id, error)| Error::new(error).context(id));
        let last = failed.next_back();
        for error in failed {
            eprintln!("rrun-image: {error:#}");
        }
        last.map_or(Ok(()), Err)
    }
}
