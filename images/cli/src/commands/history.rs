use anyhow::Result;
use rrun_images::Store;

use crate::text::{self, say};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image history busybox:1.36")]
pub struct History {
    /// Name or id
    image: String,
    /// JSON, newest step first
    #[arg(long)]
    json: bool,
}

impl History {
    pub fn run(&self, store: &Store) -> Result<()> {
        let image = store.inspect(&self.image)?;
        let mut layers = image.layers.iter();
        let mut steps = Vec::new();
        for step in &image.history {
            let layer = if step.empty_layer {
                None
            } else {
                layers.next()
            };
            steps.push((step, layer));
        }
        steps.reverse();
        if self.json {
            let steps: Vec<_> = steps
                .iter()
                .map(|(step, layer)| serde_json::json!({"step": step, "layer": layer}))
                .collect();
            say(serde_json::to_string_pretty(&steps)?);
            return Ok(());
        }
        let rows = steps.into_iter().map(|(step, layer)| {
            [
                step.created
                    .as_deref()
                    .unwrap_or("")
                    .chars()
                    .take(10)
                    .collect(),
                layer.map_or("-".to_owned(), |layer| text::short(&layer.digest)),
                layer.map_or("0 B".to_owned(), |layer| text::bytes(layer.compressed_size)),
                step.created_by
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(80)
                    .collect(),
            ]
        });
        say(text::table(
            ["CREATED", "LAYER", "COMPRESSED", "CREATED BY"],
            rows,
        ));
        Ok(())
    }
}
