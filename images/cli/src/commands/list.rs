use anyhow::Result;
use comfy_table::{Table, presets};
use rrun_images::{Image, Store};

use crate::text;

#[derive(clap::Args)]
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
            println!("{}", serde_json::to_string_pretty(&images)?);
        } else if self.quiet {
            images.iter().for_each(|image| println!("{}", image.id));
        } else {
            println!("{}", table(&images));
        }
        Ok(())
    }
}

fn table(images: &[Image]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["IMAGE", "ID", "PLATFORM", "LAYERS", "SIZE", "CREATED"]);
    for image in images {
        let names = if image.repo_tags.is_empty() {
            &image.repo_digests
        } else {
            &image.repo_tags
        };
        let names = if names.is_empty() {
            "<none>".to_owned()
        } else {
            names.join("\n")
        };
        table.add_row([
            names,
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
        ]);
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
