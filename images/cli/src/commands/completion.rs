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
        crate::text::say(String::from_utf8_lossy(&script).trim_end());
    }
}
