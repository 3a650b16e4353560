use clap::CommandFactory;

#[derive(clap::Args)]
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
