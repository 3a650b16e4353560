use anyhow::Result;
use rrun_images::{Image, Store};

use crate::text::{self, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image list
  rrun-image list --quiet")]
pub struct List {
    /// JSON, an array of images
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Ids only
    #[arg(long, short)]
    quiet: bool,
}

impl List {
    pub fn run(&self, store: &Store) -> Result<()> {
        let images = store.list()?;
        if self.json {
            say(serde_json::to_string_pretty(&images)?);
        } else if self.quiet {
            for image in &images {
                say(&image.id);
            }
        } else {
            say(table(&images));
        }
        Ok(())
    }
}

fn table(images: &[Image]) -> String {
    let rows = images.iter().map(|image| {
        let names = if image.repo_tags.is_empty() {
            &image.repo_digests
        } else {
            &image.repo_tags
        };
        [
            if names.is_empty() {
                "<none>".to_owned()
            } else {
                names.join("\n")
            },
            text::short(&image.id),
            image.platform.to_string(),
            image.layers.len().to_string(),
            text::bytes(image.size),
            image
                .created
                .as_deref()
                .unwrap_or("")
                .chars()
                .take(10)
                .collect(),
        ]
    });
    text::table(
        ["IMAGE", "ID", "PLATFORM", "LAYERS", "SIZE", "CREATED"],
        rows,
    )
}
