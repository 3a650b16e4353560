//! Flags of every command that speaks to a registry.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rrun_images::{Credentials, RegistryOptions};

#[derive(clap::Args)]
pub struct RegistryArgs {
    /// Speak to this registry (host or host:port) without TLS; loopback needs no flag
    #[arg(long, value_name = "REGISTRY")]
    plain_http: Vec<String>,
    /// Trust these certificates too (PEM file, or a directory of them)
    #[arg(long, value_name = "PATH")]
    ca_file: Vec<PathBuf>,
    /// Mirrors in containerd's format: DIR/<registry>/hosts.toml
    #[arg(long, value_name = "DIR", env = "RRUN_IMAGE_HOSTS_DIR")]
    hosts_dir: Option<PathBuf>,
    /// Mirrors, rewrites and blocks in the containers format; the machine's own by default
    #[arg(long, value_name = "FILE")]
    registries_conf: Option<PathBuf>,
    /// Log in as USER:PASSWORD; without it docker's and podman's files are read
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "RRUN_IMAGE_CREDS",
        hide_env_values = true
    )]
    creds: Option<String>,
    /// Do not log in
    #[arg(long, conflicts_with = "creds")]
    anonymous: bool,
    /// How often what breaks off is tried; the pauses between grow to a minute
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
}

impl RegistryArgs {
    pub fn options(&self) -> Result<RegistryOptions> {
        let credentials = match &self.creds {
            Some(creds) => {
                let (username, password) = creds
                    .split_once(':')
                    .context("--creds: write USER:PASSWORD")?;
                Credentials::Basic {
                    username: username.into(),
                    password: password.into(),
                }
            }
            None if self.anonymous => Credentials::Anonymous,
            None => Credentials::FromFiles,
        };
        Ok(RegistryOptions {
            credentials,
            plain_http: self.plain_http.clone(),
            ca_files: self.ca_file.clone(),
            hosts_dir: self.hosts_dir.clone(),
            registries_conf: self.registries_conf.clone(),
            attempts: self.attempts,
        })
    }
}
