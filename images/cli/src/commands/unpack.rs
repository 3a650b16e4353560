use std::path::PathBuf;

use anyhow::{Context, Result};
use rrun_images::{BundleOptions, Store};

use crate::text::parse_bytes;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image unpack busybox:1.36 b --memory 64m --pids 32 -- sh -c 'echo hello'
  rrun-image unpack --flat --rootfs-only busybox:1.36 files
  rrun-image unpack app:1 b --id web --disk 1g --env A=b")]
pub struct Unpack {
    /// Name or id of the image
    image: String,
    /// Directory to make the bundle in
    bundle: PathBuf,
    /// Command, in place of the image's Cmd
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
    /// Id of the container to be; the bundle's last name by default
    #[arg(long)]
    id: Option<String>,
    /// Copy the files instead of standing on the store's layers
    #[arg(long)]
    flat: bool,
    /// Files only, no config.json; with --flat
    #[arg(long, requires = "flat")]
    rootfs_only: bool,
    /// In place of the image's Entrypoint; may be repeated for its arguments
    #[arg(long)]
    entrypoint: Vec<String>,
    /// NAME=value, may be repeated
    #[arg(long, short)]
    env: Vec<String>,
    /// user, uid, user:group …
    #[arg(long, short, default_value = "")]
    user: String,
    /// Working directory
    #[arg(long, short, default_value = "")]
    workdir: String,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Memory limit in bytes, or as in 64m
    #[arg(long, short, value_parser = parse_bytes)]
    memory: Option<i64>,
    /// CPU limit, as in 1.5
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<f64>,
    /// Limit of processes and threads
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pids: Option<i64>,
    /// Bytes that the container may write, or as in 1g; needs project quotas (XFS, ext4)
    #[arg(long, value_parser = parse_bytes, conflicts_with = "flat")]
    disk: Option<i64>,
    /// Share the host's network
    #[arg(long)]
    host_network: bool,
}

fn parse_cpus(text: &str) -> Result<f64, String> {
    let cpus: f64 = text.parse().map_err(|_| "write a number, as in 1.5")?;
    if (0.01..=10_000.0).contains(&cpus) {
        Ok(cpus)
    } else {
        Err("from 0.01 to 10000".to_owned())
    }
}

impl Unpack {
    pub fn run(&self, store: &Store) -> Result<()> {
        if self.rootfs_only {
            return Ok(store.unpack_flat(&self.image, &self.bundle)?);
        }
        for env in &self.env {
            anyhow::ensure!(
                env.find('=').is_some_and(|at| at > 0),
                "--env {env:?}: write NAME=value"
            );
        }
        let options = self.options()?;
        if self.flat {
            store.flat_bundle(&self.image, &self.bundle, &options)?;
        } else {
            store.bundle(&self.image, &self.bundle, &options)?;
        }
        Ok(())
    }

    fn options(&self) -> Result<BundleOptions> {
        let id = if let Some(id) = &self.id {
            id.clone()
        } else {
            let path = std::path::absolute(&self.bundle)?;
            let name = path.file_name().and_then(|name| name.to_str());
            name.context("the bundle has no name to take as id: give --id")?
                .to_owned()
        };
        Ok(BundleOptions {
            id,
            args: self.args.clone(),
            entrypoint: (!self.entrypoint.is_empty()).then(|| self.entrypoint.clone()),
            env: self.env.clone(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            terminal: self.tty,
            read_only: self.read_only,
            memory: self.memory,
            cpus: self.cpus,
            pids: self.pids,
            disk: self.disk.and_then(|bytes| u64::try_from(bytes).ok()),
            host_network: self.host_network,
        })
    }
}
