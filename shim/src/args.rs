//! The command line that containerd gives every shim. Flags are Go's: one dash or two, the value
//! after `=` or as the next argument.

use std::ffi::OsString;
use std::path::PathBuf;

/// What this process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a shim for `-id` and print its address.
    Start,
    /// Clean up after a shim that died.
    Delete,
    /// Be the shim; its listening socket is standard input.
    Serve,
    /// Print the runtime's features as protobuf.
    Info,
    /// Print the version.
    Version,
}

/// The command line, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// containerd's namespace of the container.
    pub namespace: String,
    /// Container (or pod) id.
    pub id: String,
    /// containerd's gRPC address; empty where there is no containerd.
    pub address: String,
    /// Program that publishes events where there is no `TTRPC_ADDRESS`.
    pub publish_binary: String,
    /// Absolute; the working directory unless `-bundle` names another.
    pub bundle: PathBuf,
    /// Path of the listening socket (Serve).
    pub socket: PathBuf,
    /// Directory for sockets, where the caller wants another than ours.
    pub socket_dir: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
}

impl Args {
    /// Parses the arguments after the program's name.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut parsed = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            bundle: PathBuf::new(),
            socket: PathBuf::new(),
            socket_dir: None,
            debug: false,
        };
        let mut args = args.map(|arg| {
            arg.into_string()
                .map_err(|arg| format!("argument {} is not UTF-8", arg.display()))
        });
        while let Some(arg) = args.next().transpose()? {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                parsed.action = action(&arg)?;
                break;
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if parsed.switch(name, inline.as_deref()) {
                continue;
            }
            let value = match inline {
                Some(value) => value,
                None => args
                    .next()
                    .transpose()?
                    .ok_or(format!("flag -{name} needs a value"))?,
            };
            parsed.set(name, value)?;
        }
        parsed.check()
    }

    fn switch(&mut self, name: &str, value: Option<&str>) -> bool {
        let on = !matches!(value, Some("false" | "0"));
        match name {
            "debug" => self.debug = on,
            "v" | "version" => self.action = Action::Version,
            "info" => self.action = Action::Info,
            _ => return false,
        }
        true
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "bundle" => self.bundle = PathBuf::from(value),
            "socket" => self.socket = PathBuf::from(value),
            "socket-dir" => self.socket_dir = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown flag -{name}")),
        }
        Ok(())
    }

    fn check(mut self) -> Result<Self, String> {
        if matches!(self.action, Action::Version | Action::Info) {
            return Ok(self);
        }
        if self.namespace.is_empty() {
            return Err("flag -namespace is missing or empty".into());
        }
        check_id(&self.id)?;
        let cwd =
            std::env::current_dir().map_err(|e| format!("read the working directory: {e}"))?;
        self.bundle = cwd.join(&self.bundle);
        Ok(self)
    }
}

/// An id becomes part of file names, so it is checked as containerd does.
pub fn check_id(id: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let edges = |c: char| c.is_ascii_alphanumeric();
    let ok = !id.is_empty() && id.len() <= 255 && id.chars().all(good) && id.starts_with(edges);
    if ok {
        Ok(())
    } else {
        Err(format!("id {id:?} is not a valid container id"))
    }
}

fn action(word: &str) -> Result<Action, String> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        _ => Err(format!(
            "unknown action {word:?}; known are start and delete"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_command_line() {
        let args = parse(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id a1 \
             -debug start",
        )
        .unwrap();
        assert_eq!(args.action, Action::Start);
        assert_eq!(
            (args.namespace.as_str(), args.id.as_str()),
            ("default", "a1")
        );
        assert_eq!(args.address, "/run/c.sock");
        assert!(args.debug && args.bundle.is_absolute());
    }

    #[test]
    fn two_dashes_and_equals_signs() {
        let args = parse("--namespace=n --id=x -bundle /b delete").unwrap();
        assert_eq!(args.action, Action::Delete);
        assert_eq!(args.bundle, PathBuf::from("/b"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parse("-id a start").unwrap_err().contains("-namespace"));
        assert!(
            parse("-namespace n -id ../x start")
                .unwrap_err()
                .contains("../x")
        );
        assert!(parse("-namespace n -id x fly").unwrap_err().contains("fly"));
        assert!(parse("-wings 2").unwrap_err().contains("-wings"));
        assert!(parse("-namespace").unwrap_err().contains("needs a value"));
    }
}
