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
    print(&script(options.shell));
}

fn script(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    let mut command = super::Program::command();
    clap_complete::generate(shell, &mut command, "rrun-pods", &mut script);
    // In one half of its script for bash, clap_complete takes the hyphen of the program's name for the
    // border of a subcommand.
    String::from_utf8_lossy(&script).replace("rrun__subcmd__pods", "rrun__pods")
}

#[cfg(test)]
mod tests {
    #[test]
    fn bash_finds_the_options_of_every_command() {
        let script = super::script(clap_complete::Shell::Bash);
        let commands = script.lines().filter_map(|l| {
            let name = l.trim().strip_prefix("cmd=\"")?;
            name.strip_suffix('"').filter(|name| !name.is_empty())
        });
        let mut count = 0;
        for command in commands {
            count += 1;
            assert!(
                script.contains(&format!("\n        {command})\n")),
                "{command}"
            );
        }
        assert!(count > 20, "{count}");
    }
}
