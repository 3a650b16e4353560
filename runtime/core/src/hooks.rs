//! Hooks: programs run at six points of a container's life, with its state on
//! standard input (runtime-spec, config.md#posix-platform-hooks).

use crate::annotations::HookFiles;
use crate::{Context, Error, Result};
use oci_spec::runtime::{Hook, Hooks};
use std::ffi::{CString, OsStr};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Runs `hooks` in order, each with `state` (JSON) on standard input. The first
/// failure ends it. `kind` is as "prestart", for messages.
/// Those that name no environment get the caller's.
pub fn run(kind: &str, hooks: Option<&Vec<Hook>>, state: &State<'_>) -> Result<()> {
    run_with(kind, hooks, state, None, HookFiles::new(state.annotations))
}

/// Runs poststop hooks, every one: a failure is a warning (runtime-spec, runtime.md#lifecycle, 13).
pub fn run_poststop(hooks: &Hooks, state: &State<'_>) {
    for (index, hook) in hooks.poststop().iter().flatten().enumerate() {
        if let Err(e) = run_one(hook, state, None, HookFiles::new(state.annotations)) {
            crate::warning!("error running poststop hook #{index}: {}", e.chain());
        }
    }
}

/// [`run`], with an environment for hooks that name none of their own; `None` for the caller's;
/// and with the files that take their output.
pub fn run_with(
    kind: &str,
    hooks: Option<&Vec<Hook>>,
    state: &State<'_>,
    environment: Option<&[CString]>,
    files: HookFiles<'_>,
) -> Result<()> {
    for (index, hook) in hooks.into_iter().flatten().enumerate() {
        run_one(hook, state, environment, files)
            .with_context(|| format!("error running {kind} hook #{index}"))?;
    }
    Ok(())
}

fn run_one(
    hook: &Hook,
    state: &State<'_>,
    environment: Option<&[CString]>,
    files: HookFiles<'_>,
) -> Result<()> {
    let path = hook.path();
    let mut output = rrun_sys::fd::memory_file("hook-output")?;
    let [out, err] = files.open(&output)?;
    let mut command = Command::new(path);
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    set_environment(&mut command, hook, environment);
    // Those in the runtime's namespace find the bundle around them, as with crun, whoever calls;
    // it may be gone by the time of poststop.
    if environment.is_none() && state.bundle.is_dir() {
        command.current_dir(state.bundle);
    }
    command.stdin(Stdio::piped()).stdout(out).stderr(err);
    let mut child = command.spawn().map_err(|e| Error::file("exec", path, e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its input: a broken pipe is no failure.
        let _ = stdin.write_all(state.to_json().as_bytes());
    }
    let status = wait(&mut child, hook.timeout())?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let _ = output
        .rewind()
        .and_then(|()| output.read_to_string(&mut text));
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!(
            "signal: {}",
            rrun_sys::signal::describe(signal.unwrap_or(0))
        ),
    };
    let text = text.trim_end();
    Err(Error::Remote(format!(
        "{}: {how}, output: {text:?}",
        path.display()
    )))
}

fn set_environment(command: &mut Command, hook: &Hook, otherwise: Option<&[CString]>) {
    let variables: Vec<&[u8]> = match (hook.env(), otherwise) {
        (Some(own), _) => own.iter().map(String::as_bytes).collect(),
        (None, Some(given)) => given.iter().map(CString::as_bytes).collect(),
        (None, None) => return,
    };
    command.env_clear();
    for variable in variables {
        let end = variable.iter().position(|b| *b == b'=');
        let (key, value) = variable.split_at(end.unwrap_or(variable.len()));
        let value = value.get(1..).unwrap_or_default();
        command.env(OsStr::from_bytes(key), OsStr::from_bytes(value));
    }
}

/// Waits for a hook; kills it after `timeout` seconds.
fn wait(child: &mut Child, timeout: Option<i64>) -> Result<std::process::ExitStatus> {
    let failed = |e| Error::file("wait for", "hook", e);
    let Some(seconds) = timeout.filter(|t| *t > 0) else {
        return child.wait().map_err(failed);
    };
    let pidfd = rrun_sys::process::pidfd_open(child.id() as i32)?;
    let limit = Duration::from_secs(seconds as u64);
    if !rrun_sys::fd::wait_readable(pidfd.as_fd(), Some(limit))? {
        child.kill().map_err(failed)?;
        child.wait().map_err(failed)?;
        return Err(Error::Remote(format!(
            "timed out after {seconds} s and was killed"
        )));
    }
    child.wait().map_err(failed)
}

/// The state that hooks and `rrun state` see (runtime-spec, runtime.md#state).
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    /// Version of the specification.
    pub oci_version: &'a str,
    /// Container id.
    pub id: &'a str,
    /// Life cycle.
    pub status: crate::container::Status,
    /// Init's process id; absent when stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Bundle directory.
    pub bundle: &'a std::path::Path,
    /// Annotations of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<&'a std::collections::HashMap<String, String>>,
}

impl State<'_> {
    /// As JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a state has no map with other keys than text")
    }
}
