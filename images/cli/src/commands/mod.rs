//! One file per command.

mod build;
mod build_layers;
mod check;
mod completion;
mod dedup;
mod delete;
mod diff;
mod history;
mod inspect;
mod limits;
mod list;
mod list_tags;
mod load;
mod login;
mod logout;
mod man;
mod mount;
mod prune;
mod pull;
mod push;
mod referrers;
mod registry;
mod release;
mod remount;
mod remove;
mod save;
mod tag;
mod unpack;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use rrun_images::{LayerFormat, Store};

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Fetch an image from a registry
    Pull(pull::Pull),
    /// Send an image to a registry
    Push(push::Push),
    /// List images
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show all that is known of an image, as JSON
    Inspect(inspect::Inspect),
    /// Show how an image came to be
    History(history::History),
    /// Give an image one more name
    Tag(tag::Tag),
    /// Remove images by name or id
    #[command(visible_alias = "rm")]
    Remove(remove::Remove),
    /// Remove images without a name, and broken-off downloads
    Prune(prune::Prune),
    /// Write images to a file
    Save(save::Save),
    /// Read images from a file
    Load(load::Load),
    /// Verify credentials at a registry and keep them, where podman and docker do
    Login(login::Login),
    /// Forget a registry's credentials
    Logout(logout::Logout),
    /// Verify all that the store has
    Check(check::Check),
    /// Show what the store takes on disk, as du counts it
    #[command(visible_alias = "df")]
    Usage(usage::Usage),
    /// Store identical files of layers once, where files can share blocks (XFS, btrfs)
    Dedup(dedup::Dedup),
    /// Make a runtime bundle of an image, for `rrun run -b BUNDLE ID`
    Unpack(unpack::Unpack),
    /// End a bundle made by unpack: drop its writable layer
    Release(release::Release),
    /// Mount again what bundles stand on, after a reboot (erofs and fuse-overlayfs)
    Remount(remount::Remount),
    /// Mount an image on a directory, read-only, to look into it
    Mount(mount::Mount),
    /// End a mount
    #[command(visible_alias = "umount")]
    Unmount(mount::Unmount),
    /// Show what a container wrote on a bundle made by unpack
    Diff(diff::Diff),
    /// List what refers to an image at its registry: signatures, bills of materials
    Referrers(referrers::Referrers),
    /// List the tags of a repository at its registry
    ListTags(list_tags::ListTags),
    /// Delete an image at its registry (remove is for the store's)
    Delete(delete::Delete),
    /// Write a completion script for a shell
    Completion(completion::Completion),
    /// Write manual pages
    Man(man::Man),
    /// Make an image from a Dockerfile
    Build(build::Build),
    /// Make an image from directories, one layer each
    BuildLayers(build_layers::BuildLayers),
}

impl Command {
    /// Runs the command on the store below `root`, else on the user's own, which only those open
    /// that need it.
    pub fn run(&self, root: Option<&Path>, format: Option<LayerFormat>) -> Result<ExitCode> {
        let store = || {
            let root = root.map_or_else(default_store, Path::to_owned);
            // Both before there are threads.
            let format = format.unwrap_or_else(|| LayerFormat::of_store(&root));
            // Mounts that are seen outside of the namespace are made outside of it.
            let outside = matches!(self, Self::Mount(_) | Self::Unmount(_));
            if !outside && format != LayerFormat::FuseOverlayfs {
                rrun_images::identity::enter()?;
            }
            Store::open(&root)?.with_format(format)
        };
        match self {
            Self::Pull(command) => command.run(&store()?)?,
            Self::Push(command) => command.run(&store()?)?,
            Self::List(command) => command.run(&store()?)?,
            Self::Inspect(command) => command.run(&store()?)?,
            Self::History(command) => command.run(&store()?)?,
            Self::Tag(command) => command.run(&store()?)?,
            Self::Remove(command) => command.run(&store()?)?,
            Self::Prune(command) => command.run(&store()?)?,
            Self::Save(command) => command.run(&store()?)?,
            Self::Load(command) => command.run(&store()?)?,
            Self::Login(command) => command.run()?,
            Self::Logout(command) => command.run()?,
            Self::Check(command) => command.run(&store()?)?,
            Self::Usage(command) => command.run(&store()?)?,
            Self::Dedup(command) => command.run(&store()?)?,
            Self::Unpack(command) => command.run(&store()?)?,
            Self::Release(command) => command.run(&store()?)?,
            Self::Remount(command) => command.run(&store()?)?,
            Self::Mount(command) => command.run(&store()?)?,
            Self::Unmount(command) => command.run(&store()?)?,
            Self::Diff(command) => command.run(&store()?)?,
            Self::Referrers(command) => command.run()?,
            Self::ListTags(command) => command.run()?,
            Self::Delete(command) => command.run()?,
            Self::Completion(command) => command.run(),
            Self::Man(command) => command.run()?,
            Self::Build(command) => command.run(&store()?)?,
            Self::BuildLayers(command) => command.run(&store()?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `/var/lib/rrun/images` for root; for others a directory of their own.
fn default_store() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    let data = variable("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")));
    match data {
        Some(data) if rrun_images::identity::is_rootless() => data.join("rrun/images"),
        _ => PathBuf::from("/var/lib/rrun/images"),
    }
}

/// Runs a future to its end, or until the user interrupts.
fn block_on<T>(future: impl Future<Output = rrun_images::Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = future => result.map_err(Into::into),
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    // Threads that still write do so in the store's ingest directory, which is cleaned later.
    runtime.shutdown_background();
    result
}

/// The time that reproducible builds carry.
fn source_date_epoch() -> Result<Option<u64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds = text
                .parse()
                .context("SOURCE_DATE_EPOCH is not a number of seconds")?;
            Ok(Some(seconds))
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::Cli;

    /// The words of a line, as a shell would take them. What follows `>` is the shell's.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" > ").next().unwrap();
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words
    }

    #[test]
    fn every_command_has_examples_that_it_understands() {
        let command = Cli::command();
        for sub in command.get_subcommands() {
            let name = sub.get_name();
            let help = sub.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{name} has no examples"));
            let examples: Vec<_> = help.lines().skip(1).map(str::trim).collect();
            assert!(!examples.is_empty(), "{name}");
            for example in examples {
                let words = words(example);
                assert_eq!((words[0].as_str(), words[1].as_str()), ("rrun-image", name));
                let parsed = Cli::try_parse_from(&words).err();
                assert!(parsed.is_none(), "{example}: {}", parsed.unwrap());
            }
        }
    }
}
