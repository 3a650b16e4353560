use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rrun_images::Credentials;

use super::registry::RegistryArgs;
use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image login registry.example -u user
  rrun-image login registry.example -u user --password-stdin")]
pub struct Login {
    /// Registry, as host or host:port; docker.io is Docker Hub
    registry: String,
    /// User name; asked for on a terminal
    #[arg(long, short)]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// File to write; $REGISTRY_AUTH_FILE, else containers/auth.json in the runtime directory,
    /// which a reboot clears
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    #[command(flatten)]
    connection: RegistryArgs,
}

impl Login {
    pub fn run(&self) -> Result<()> {
        let mut options = self.connection.options()?;
        let (username, password) = match std::mem::take(&mut options.credentials) {
            Credentials::Basic { username, password } => (username, password),
            _ => self.ask()?,
        };
        let file = self.authfile.as_deref();
        let stored = super::block_on(rrun_images::login(
            &self.registry,
            &username,
            &password,
            &options,
            file,
        ))?;
        say(format!(
            "logged in to {} ({})",
            self.registry,
            stored.display()
        ));
        Ok(())
    }

    fn ask(&self) -> Result<(String, String)> {
        let stdin = std::io::stdin();
        let username = match &self.username {
            Some(username) => username.clone(),
            None if self.password_stdin || !stdin.is_terminal() => bail!("give --username"),
            None => prompt("User name: ")?,
        };
        if !self.password_stdin && !stdin.is_terminal() {
            bail!("standard input is no terminal to ask on: give --password-stdin");
        }
        let password = if self.password_stdin {
            line()?
        } else {
            let _quiet = NoEcho::new();
            let password = prompt("Password: ");
            eprintln!();
            password?
        };
        anyhow::ensure!(!password.is_empty(), "the password is empty");
        Ok((username, password))
    }
}

fn prompt(text: &str) -> Result<String> {
    eprint!("{text}");
    std::io::stderr().flush()?;
    line()
}

fn line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("read standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct NoEcho(Option<rustix::termios::Termios>);

impl NoEcho {
    fn new() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        Self(
            tcsetattr(&stdin, OptionalActions::Flush, &quiet)
                .is_ok()
                .then_some(before),
        )
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
