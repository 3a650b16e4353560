//! The program that the process becomes, with its arguments and environment.

use crate::{Error, Result, Told};
use rrun_sys::{path, process, signal};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// A process that has its identity and only waits for its start.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds the program of `args` by the PATH in `env`, for user `uid`.
    pub(crate) fn find(args: &[String], env: &[String], uid: u32) -> Result<Self> {
        let env = environment(env, uid)?;
        let name = args
            .first()
            .ok_or_else(|| Error("process.args: is empty".into()))?;
        let path = find_program(name, search_path(&env))?;
        Ok(Self {
            path: CString::new(path.into_os_string().into_encoded_bytes())
                .told("process.args[0]")?,
            args: args.iter().map(|a| text(a)).collect::<Result<_>>()?,
            env: env.iter().map(|e| text(e)).collect::<Result<_>>()?,
        })
    }

    /// The environment that it will have.
    pub fn environment(&self) -> &[CString] {
        &self.env
    }

    /// Executes it; returns only when that fails. Callers look for runc's wording.
    pub fn exec(self) -> Error {
        if let Err(error) = signal::reset_for_exec().told("reset signals") {
            return error;
        }
        let error = process::exec(&self.path, &self.args, &self.env);
        Error::of(
            &format!("exec {}", self.path.to_string_lossy()),
            &error.errno(),
        )
    }
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error(format!("process: {text:?} holds a nul byte")))
}

/// The environment, with HOME from the container's passwd where it is not given.
/// Of a name given twice the last counts.
fn environment(given: &[String], uid: u32) -> Result<Vec<String>> {
    let mut env: Vec<String> = Vec::with_capacity(given.len() + 1);
    for variable in given {
        let Some((name, _)) = variable.split_once('=').filter(|(n, _)| !n.is_empty()) else {
            let why = format!("{variable:?} is not NAME=value");
            return Err(Error::of("process.env", &why));
        };
        let is_same = |v: &&mut String| v.split_once('=').is_some_and(|(n, _)| n == name);
        match env.iter_mut().find(is_same) {
            Some(earlier) => earlier.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    if !env.iter().any(|v| v.starts_with("HOME=") && v.len() > 5) {
        env.retain(|v| v != "HOME=");
        env.push(format!("HOME={}", home(uid)));
    }
    Ok(env)
}

fn home(uid: u32) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2).map(str::to_owned))?
    });
    entry
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

fn search_path(env: &[String]) -> &str {
    env.iter()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or_default()
}

/// Finds what `name` means, as a shell would. The wording of the errors is what
/// engines look for (Docker: "executable file not found in $PATH").
fn find_program(name: &str, search: &str) -> Result<PathBuf> {
    let failed = |why: &str| Error(format!("exec: {name:?}: {why}"));
    if name.contains('/') {
        return match usable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(Unusable::Missing) => {
                Err(failed(&format!("stat {name}: no such file or directory")))
            }
            Err(Unusable::Directory) => Err(failed("is a directory")),
            Err(Unusable::Denied) => Err(failed("permission denied")),
        };
    }
    let mut denied = false;
    for dir in search.split(':').filter(|_| !name.is_empty()) {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match usable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Unusable::Denied) => denied = true,
            Err(_) => {}
        }
    }
    Err(failed(if denied {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    }))
}

enum Unusable {
    Missing,
    Directory,
    Denied,
}

fn usable(program: &Path) -> std::result::Result<(), Unusable> {
    let meta = std::fs::metadata(program).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => Unusable::Denied,
        _ => Unusable::Missing,
    })?;
    if meta.is_dir() {
        return Err(Unusable::Directory);
    }
    if path::may_execute(program) {
        Ok(())
    } else {
        Err(Unusable::Denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(given: &[&str]) -> Result<Vec<String>> {
        let given: Vec<String> = given.iter().map(|v| (*v).to_owned()).collect();
        environment(&given, 0)
    }

    #[test]
    fn the_last_of_a_name_counts_and_home_is_never_missing() {
        assert_eq!(
            env(&["A=1", "HOME=/h", "A=2", "AB=3"]).unwrap(),
            ["A=2", "HOME=/h", "AB=3"]
        );
        assert!(env(&["HOME="]).unwrap()[0].len() > "HOME=".len());
        let error = env(&["=x"]).unwrap_err();
        assert_eq!(error.to_string(), "process.env: \"=x\" is not NAME=value");
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert_eq!(
            find_program("sh", "/none:/bin").unwrap(),
            Path::new("/bin/sh")
        );
        let told = |name, search| find_program(name, search).unwrap_err().to_string();
        assert_eq!(
            told("none", "/bin"),
            "exec: \"none\": executable file not found in $PATH"
        );
        assert_eq!(told("/bin", ""), "exec: \"/bin\": is a directory");
        assert_eq!(
            told("./none", ""),
            "exec: \"./none\": stat ./none: no such file or directory"
        );
        assert_eq!(
            told("", "/bin"),
            "exec: \"\": executable file not found in $PATH"
        );
    }

    #[test]
    fn a_nul_byte_is_told_of() {
        let error = Program::find(&["/bin/sh".into(), "a\0b".into()], &[], 0).unwrap_err();
        assert_eq!(error.to_string(), "process: \"a\\0b\" holds a nul byte");
    }
}
