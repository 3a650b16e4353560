//! `completion`.

use clap::{Args, CommandFactory};

use super::output::print;

/// `rrun-pods completion bash`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rrun-pods completion bash > /etc/bash_completion.d/rrun-pods
  rrun-pods completion zsh > /usr/share/zsh/site-functions/_rrun-pods")]
pub struct Options {
    /// bash, zsh, fish, elvish or powershell.
    shell: clap_complete::Shell,
}

/// Runs it.
pub fn run(options: &Options) {
    let mut script = Vec::new();
    let mut command = super::Program::command();
    clap_complete::generate(options.shell, &mut command, "rrun-pods", &mut script);
    print(&String::from_utf8_lossy(&script));
}
