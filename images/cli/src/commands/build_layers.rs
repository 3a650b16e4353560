use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rrun_images::{Compression, ImageConfig, LayerBuild, Platform, Reference, Store};

use crate::text::say;

/// Files become root's, times become SOURCE_DATE_EPOCH (0 without it): the same directories
/// give the same image.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image build-layers base web --tag team/web:1 --entrypoint '[\"/bin/httpd\",\"-f\"]' --cmd -p,8080")]
pub struct BuildLayers {
    /// Directories, the bottom layer first
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Name of the image, may be repeated
    #[arg(long, short, required = true)]
    tag: Vec<Reference>,
    /// Default command; a JSON array, or words separated by spaces or commas
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    cmd: Option<String>,
    /// Start of the command line; a JSON array, or words separated by spaces or commas
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// NAME=value, may be repeated
    #[arg(long, short)]
    env: Vec<String>,
    /// Working directory
    #[arg(long, short, default_value = "")]
    workdir: String,
    /// user, uid, user:group …
    #[arg(long, short, default_value = "")]
    user: String,
    /// NAME=value, may be repeated
    #[arg(long, short)]
    label: Vec<String>,
    /// Port/protocol, as in 80/tcp, may be repeated
    #[arg(long)]
    expose: Vec<String>,
    /// Path that wants a volume, may be repeated
    #[arg(long)]
    volume: Vec<String>,
    /// Signal that stops the container
    #[arg(long, default_value = "")]
    stop_signal: String,
    /// none, gzip or zstd
    #[arg(long, default_value = "gzip")]
    compression: Compression,
    /// Platform; this machine's by default
    #[arg(long)]
    platform: Option<Platform>,
}

impl BuildLayers {
    pub fn run(&self, store: &Store) -> Result<()> {
        let mut labels = BTreeMap::new();
        for label in &self.label {
            let (key, value) = label.split_once('=').context("--label: write NAME=value")?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        for env in &self.env {
            anyhow::ensure!(
                env.find('=').is_some_and(|at| at > 0),
                "--env {env:?}: write NAME=value"
            );
        }
        let config = ImageConfig {
            user: self.user.clone(),
            env: self.env.clone(),
            entrypoint: command("--entrypoint", self.entrypoint.as_deref())?,
            cmd: command("--cmd", self.cmd.as_deref())?,
            working_dir: self.workdir.clone(),
            stop_signal: self.stop_signal.clone(),
            volumes: self.volume.clone(),
            exposed_ports: self.expose.clone(),
            labels,
        };
        let build = LayerBuild {
            directories: self.directories.clone(),
            config,
            compression: self.compression,
            platform: self.platform.clone().unwrap_or_else(Platform::host),
            tags: self.tag.clone(),
            time: super::source_date_epoch()?.unwrap_or(0),
        };
        say(store.build_layers(&build)?);
        Ok(())
    }
}

fn command(flag: &str, text: Option<&str>) -> Result<Vec<String>> {
    match text {
        None => Ok(Vec::new()),
        Some(json) if json.trim_start().starts_with('[') => serde_json::from_str(json)
            .with_context(|| format!("{flag}: not a JSON array of strings")),
        Some(words) => {
            let separator = |c: char| c.is_whitespace() || c == ',';
            Ok(words
                .split(separator)
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect())
        }
    }
}
