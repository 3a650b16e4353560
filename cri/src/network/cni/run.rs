//! Runs a plugin: command and attachment in the environment, configuration on standard input,
//! result on standard output (CNI specification 1.1, section 2 and 5).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// How long a plugin may take.
const LONGEST_RUN: Duration = Duration::from_secs(90);
/// Longest result, in bytes.
const LONGEST_RESULT: u64 = 1 << 20;

/// What a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make an attachment.
    Add,
    /// Remove an attachment, whether or not it is there.
    Del,
    /// Look whether an attachment is as it was made (since 0.4.0).
    Check,
    /// Say whether ADD would work (since 1.1.0).
    Status,
    /// Remove attachments that are not among those listed (since 1.1.0).
    Gc,
}

impl Verb {
    /// The value of CNI_COMMAND.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

/// The attachment that a plugin works on.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// CNI_CONTAINERID: the id of the sandbox.
    pub container_id: String,
    /// CNI_NETNS; empty where the namespace is gone.
    pub netns: PathBuf,
    /// CNI_ARGS.
    pub args: String,
}

/// The interface inside the namespace.
pub const INTERFACE: &str = "eth0";

/// Runs `program` of `directories`, and gives its result; null where it printed nothing.
pub async fn run(
    program: &str,
    directories: &[PathBuf],
    verb: Verb,
    attachment: Option<&Attachment>,
    input: &Value,
) -> Result<Value> {
    let path = find(program, directories)?;
    let mut command = Command::new(&path);
    command
        .env("CNI_COMMAND", verb.name())
        .env("CNI_PATH", search_path(directories)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(attachment) = attachment {
        command
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", &attachment.args);
    }
    let run = timeout(LONGEST_RUN, execute(command, input)).await;
    run.unwrap_or_else(|_| bail!("it ran for {} s and was killed", LONGEST_RUN.as_secs()))
        .with_context(|| format!("CNI plugin {} {}", path.display(), verb.name()))
}

async fn execute(mut command: Command, input: &Value) -> Result<Value> {
    let mut child = command.spawn().context("run it")?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let text = serde_json::to_vec(input).context("serialize its configuration")?;
    let (mut result, mut message) = (Vec::new(), Vec::new());
    let feed = async {
        // A plugin need not read its configuration.
        let _ = stdin.write_all(&text).await;
        drop(stdin);
    };
    let (mut stdout, mut stderr) = (stdout.take(LONGEST_RESULT + 1), stderr.take(LONGEST_RESULT));
    let ((), out, err) = tokio::join!(
        feed,
        stdout.read_to_end(&mut result),
        stderr.read_to_end(&mut message)
    );
    out.and(err).context("read its output")?;
    ensure!(
        result.len() as u64 <= LONGEST_RESULT,
        "its result is longer than 1 MiB"
    );
    let status = child.wait().await.context("wait for it")?;
    if status.success() {
        let empty = result.iter().all(u8::is_ascii_whitespace);
        let result = if empty { b"null" } else { result.as_slice() };
        return serde_json::from_slice(result).context("its result is no JSON");
    }
    bail!("{status}: {}", reason(&result, &message))
}

/// The error that a plugin printed (section 5, "Error"), else what it said on standard error.
fn reason(result: &[u8], message: &[u8]) -> String {
    let error: Value = serde_json::from_slice(result).unwrap_or_default();
    let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let said = match (text("msg"), text("details")) {
        ("", "") => String::from_utf8_lossy(message).trim().replace('\n', "; "),
        (text, "") => text.to_owned(),
        (text, details) => format!("{text}: {details}"),
    };
    match error.get("code").and_then(Value::as_u64) {
        Some(code) => format!("{said} (CNI error {code})"),
        None if said.is_empty() => "it printed no reason".to_owned(),
        None => said,
    }
}

fn find(program: &str, directories: &[PathBuf]) -> Result<PathBuf> {
    let candidates = directories.iter().map(|directory| directory.join(program));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        let searched: Vec<_> = directories
            .iter()
            .map(|directory| directory.display())
            .collect();
        format!("CNI plugin {program} is not in any of {searched:?}")
    })
}

fn search_path(directories: &[PathBuf]) -> Result<OsString> {
    std::env::join_paths(directories.iter().map(|path| -> &Path { path }))
        .context("a plugin directory has a colon in its name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_own_words_are_the_reason() {
        let error = br#"{"cniVersion":"1.0.0","code":11,"msg":"no range","details":"all taken"}"#;
        assert_eq!(reason(error, b"x"), "no range: all taken (CNI error 11)");
        assert_eq!(reason(b"", b"panic: a\nb\n"), "panic: a; b");
        assert_eq!(reason(b"", b""), "it printed no reason");
    }
}
