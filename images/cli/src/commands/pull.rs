use anyhow::Result;
use rrun_images::{Platform, PullOptions, Reference, Store};

use super::limits::LimitArgs;
use super::registry::RegistryArgs;
use crate::progress::ProgressArgs;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image pull busybox:1.36
  rrun-image pull --platform linux/arm64 --json alpine
  rrun-image pull --discard-blobs --hosts-dir /etc/containerd/certs.d registry.example/team/app:1")]
pub struct Pull {
    /// Name of the image, as in busybox:1.36 or 127.0.0.1:5000/app@sha256:…
    image: Reference,
    /// Platform, as in linux/arm64; this machine's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// Keep layers unpacked only; push and save need to pull again then
    #[arg(long)]
    discard_blobs: bool,
    /// Layers fetched at the same time
    #[arg(long, default_value_t = 4, value_name = "N")]
    parallel: usize,
    /// Which images to take (policy.json of the containers tools); the machine's own by default
    #[arg(long, value_name = "FILE")]
    policy: Option<std::path::PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl Pull {
    pub fn run(&self, store: &Store) -> Result<()> {
        let options = PullOptions {
            registry: self.registry.options()?,
            platform: self.platform.clone(),
            discard_blobs: self.discard_blobs,
            parallel: self.parallel,
            policy: self.policy.clone(),
            limits: self.limits.limits(),
        };
        let sink = self.progress.sink("pulling");
        let id = super::block_on(store.pull(&self.image, &options, sink))?;
        self.progress.result("id", &id);
        Ok(())
    }
}
