use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use rrun_images::{BuildOptions, Compression, Platform, Reference, Secret, Store, default_runtime};

use super::registry::RegistryArgs;
use crate::progress::ProgressArgs;

/// FROM, ARG, ENV, LABEL, WORKDIR, USER, EXPOSE, VOLUME, STOPSIGNAL, SHELL, HEALTHCHECK,
/// ENTRYPOINT, CMD, COPY, ADD of files, archives and URLs, RUN with mounts; several stages. Anything else
/// is refused with its line.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image build . --tag team/app:1 --build-arg VERSION=7
  rrun-image build . --file web.dockerfile --target made --secret id=key,src=key.pem
  rrun-image build . --platform linux/arm64 --tag team/app:1-arm64")]
pub struct Build {
    /// Directory that COPY takes from
    context: PathBuf,
    /// Name of the image, may be repeated
    #[arg(long, short)]
    tag: Vec<Reference>,
    /// The Dockerfile; Dockerfile in the context by default
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// NAME=value for an ARG, may be repeated; NAME alone takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// id=NAME,src=FILE or id=NAME,env=VARIABLE, for RUN --mount=type=secret; may be repeated
    #[arg(long, value_name = "id=NAME,src=FILE")]
    secret: Vec<String>,
    /// Platform of base images and of the image, as in linux/arm64; this machine's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// Stage to make; the last by default
    #[arg(long)]
    target: Option<String>,
    /// none, gzip or zstd
    #[arg(long, default_value = "gzip")]
    compression: Compression,
    /// Run commands again that ran before on the same layers
    #[arg(long)]
    no_cache: bool,
    /// none, or host: the host's network for RUN
    #[arg(long, default_value = "none", value_parser = ["none", "host"])]
    network: String,
    /// Runtime for RUN; rrun beside this program, or on PATH
    #[arg(long)]
    runtime: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl Build {
    pub fn run(&self, store: &Store) -> Result<()> {
        let options = BuildOptions {
            context: self.context.clone(),
            file: self.file.clone(),
            platform: self.platform.clone(),
            tags: self.tag.clone(),
            build_args: self.build_args()?,
            target: self.target.clone(),
            compression: self.compression,
            no_cache: self.no_cache,
            host_network: self.network == "host",
            secrets: self.secrets()?,
            quiet: self.progress.silent(),
            source_date_epoch: super::source_date_epoch()?,
            runtime: self.runtime.clone().unwrap_or_else(default_runtime),
            registry: self.registry.options()?,
        };
        let sink = self.progress.sink("pulling");
        let id = super::block_on(store.build(&options, sink))?;
        self.progress.result("id", &id);
        Ok(())
    }

    fn secrets(&self) -> Result<BTreeMap<String, Secret>> {
        let mut secrets = BTreeMap::new();
        for text in &self.secret {
            let (mut id, mut source) = (None, None);
            for part in text.split(',') {
                match part.split_once('=') {
                    Some(("id", value)) => id = Some(value.to_owned()),
                    Some(("src" | "source", path)) => source = Some(Secret::File(path.into())),
                    Some(("env", name)) => source = Some(Secret::Variable(name.to_owned())),
                    Some(("type", "file" | "env")) => {}
                    _ => bail!("--secret {text}: write id=NAME,src=FILE or id=NAME,env=VARIABLE"),
                }
            }
            let Some(id) = id else {
                bail!("--secret {text}: write id=NAME,src=FILE or id=NAME,env=VARIABLE");
            };
            let source = source.unwrap_or_else(|| Secret::Variable(id.clone()));
            secrets.insert(id, source);
        }
        Ok(secrets)
    }

    fn build_args(&self) -> Result<BTreeMap<String, String>> {
        let mut args = BTreeMap::new();
        for arg in &self.build_arg {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => match std::env::var(arg) {
                    Ok(value) => (arg.as_str(), value),
                    Err(_) => {
                        bail!("--build-arg {arg}: write NAME=value, or set it in the environment")
                    }
                },
            };
            args.insert(name.to_owned(), value);
        }
        Ok(args)
    }
}
