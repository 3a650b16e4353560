use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rrun_images::{Format, SaveTarget, Store};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image save busybox:1.36 -o busybox.tar
  rrun-image save app:1 app:2 --format oci-layout -o apps")]
pub struct Save {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// File to write, or the directory of an oci-layout; - is standard output
    #[arg(long, short)]
    output: PathBuf,
    /// oci-layout, oci-archive, or docker-archive (which OCI tools read too)
    #[arg(long, default_value = "docker-archive")]
    format: Format,
}

impl Save {
    pub fn run(&self, store: &Store) -> Result<()> {
        let target = if self.output == Path::new("-") {
            let stdout = std::io::stdout();
            anyhow::ensure!(
                !stdout.is_terminal(),
                "an archive is not for a terminal: redirect it"
            );
            SaveTarget::Stream(Box::new(stdout))
        } else {
            SaveTarget::Path(&self.output)
        };
        Ok(store.save(&self.images, self.format, target)?)
    }
}
