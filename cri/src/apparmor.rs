//! AppArmor: the profile that containers get by default, and which profiles the kernel has.
//!
//! The default profile is this program's own. It is loaded by `apparmor_parser` when the first
//! container needs it, and stays: containers outlive the daemon.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Name of the default profile.
pub const DEFAULT: &str = "rrun-default";

/// Every profile of the kernel, one a line: `name (mode)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What the default profile denies is what a container could change of the machine if its namespaces
/// and read-only paths failed; files are otherwise as their modes say.
const PROFILE: &str = include_str!("apparmor/default.profile");

/// The kernel enforces AppArmor profiles.
pub fn enabled() -> bool {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    on.is_ok_and(|on| on.starts_with('Y')) && Path::new(PROFILES).exists()
}

/// The kernel has a profile of this name.
pub fn is_loaded(name: &str) -> Result<bool> {
    let text = fs::read_to_string(PROFILES).with_context(|| format!("read {PROFILES}"))?;
    Ok(has(&text, name))
}

fn has(profiles: &str, name: &str) -> bool {
    let names = profiles.lines().map(|line| match line.rsplit_once(" (") {
        Some((name, _)) => name,
        None => line,
    });
    names.into_iter().any(|known| known == name)
}

/// Loads the default profile where the kernel has not got it.
pub fn load_default() -> Result<()> {
    if is_loaded(DEFAULT)? {
        return Ok(());
    }
    let why = || format!("load the AppArmor profile {DEFAULT} with apparmor_parser");
    let mut parser = Command::new("apparmor_parser")
        // Not from or into the cache, whose directory need not be writable.
        .args(["--replace", "--skip-cache"])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(why)?;
    let mut stdin = parser.stdin.take().expect("stdin is piped");
    // A parser that fails early says why below.
    let _ = stdin.write_all(PROFILE.as_bytes());
    drop(stdin);
    let output = parser.wait_with_output().with_context(why)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let last = message.trim().lines().last().unwrap_or("no message");
        bail!("{}: {}: {last}", why(), output.status);
    }
    tracing::info!(profile = DEFAULT, "loaded the default AppArmor profile");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_tests::{Need, report_skip, require};

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let list = "docker-default (enforce)\n/usr/bin/man (complain)\nx (y) (enforce)\n";
        for name in ["docker-default", "/usr/bin/man", "x (y)"] {
            assert!(has(list, name), "{name}");
        }
        for name in ["docker", "default", "", "x"] {
            assert!(!has(list, name), "{name}");
        }
    }

    #[test]
    fn the_default_profile_can_be_parsed() {
        require!(Need::Program("apparmor_parser"));
        let mut parser = Command::new("apparmor_parser")
            .args(["--skip-kernel-load", "--skip-cache", "--debug"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = parser.stdin.take().unwrap();
        stdin.write_all(PROFILE.as_bytes()).unwrap();
        drop(stdin);
        let output = parser.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    #[test]
    fn the_default_profile_is_loaded_once() {
        require!(Need::Root, Need::Program("apparmor_parser"));
        if !enabled() {
            report_skip(module_path!(), "needs a kernel with AppArmor");
            return;
        }
        load_default().unwrap();
        assert!(is_loaded(DEFAULT).unwrap());
        load_default().unwrap();
    }
}
