use clap::CommandFactory;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image completion bash > /etc/bash_completion.d/rrun-image")]
pub struct Completion {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

impl Completion {
    pub fn run(&self) {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut crate::Cli::command(),
            "rrun-image",
            &mut script,
        );
        // In one half of its script for bash, clap_complete takes the hyphen of the program's name for
        // the border of a subcommand.
        let script = String::from_utf8_lossy(&script).replace("rrun__subcmd__image", "rrun__image");
        crate::text::say(script.trim_end());
    }
}
