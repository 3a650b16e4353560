//! Annotations of crun's that change what the runtime does (`run.oci.*`), so that callers made
//! for it find what they know. What changes the host is listed by `features`.

use crate::{Error, Result};
use oci_spec::runtime::Spec;
use std::collections::HashMap;
use std::path::Path;

/// The prefix that `features` names as potentially unsafe.
pub const PREFIX: &str = "run.oci.";
/// Leave supplementary groups as the caller's (podman's `--group-add keep-groups`).
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// Where hooks that run on the host write, appended.
const HOOKS: [&str; 2] = ["run.oci.hooks.stdout", "run.oci.hooks.stderr"];
/// A unix socket that is sent init's pidfd, as `--pidfd-socket` is.
const PIDFD: &str = "run.oci.pidfd_receiver";
/// The mount option that `linux.mountLabel` becomes.
const CONTEXT: &str = "run.oci.mount_context_type";
const CONTEXTS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

type Map = HashMap<String, String>;

fn get<'a>(spec: &'a Spec, key: &str) -> Option<&'a str> {
    let all = spec.annotations().as_ref()?;
    all.get(key).map(String::as_str).filter(|v| !v.is_empty())
}

/// Whether supplementary groups stay as they are.
pub fn keeps_groups(spec: &Spec) -> bool {
    get(spec, KEEP_GROUPS).is_some_and(|v| v != "0")
}

/// Where init's pidfd goes.
pub fn pidfd_receiver(spec: &Spec) -> Option<&Path> {
    get(spec, PIDFD).map(Path::new)
}

/// The mount option for `linux.mountLabel`.
pub fn context_type(spec: &Spec) -> Result<&str> {
    let kind = get(spec, CONTEXT).unwrap_or(CONTEXTS[0]);
    if CONTEXTS.contains(&kind) {
        return Ok(kind);
    }
    let why = format!("{kind:?} is not one of {}", CONTEXTS.join(", "));
    Err(Error::config(format!("annotations[{CONTEXT:?}]"), why))
}

/// Whether `option` is one of those that a label can be given by.
pub fn is_context(option: &str) -> bool {
    CONTEXTS.contains(&option)
}

/// Files for standard output and standard error of hooks.
#[derive(Debug, Clone, Copy, Default)]
pub struct HookFiles<'a>([Option<&'a Path>; 2]);

impl<'a> HookFiles<'a> {
    /// Those that `annotations` name.
    pub fn new(annotations: Option<&'a Map>) -> Self {
        let path = |key: &str| {
            annotations?
                .get(key)
                .filter(|v| !v.is_empty())
                .map(Path::new)
        };
        Self(HOOKS.map(path))
    }

    /// Opens them, or takes `otherwise`.
    pub fn open(&self, otherwise: &std::fs::File) -> Result<[std::fs::File; 2]> {
        let one = |path: Option<&Path>| match path {
            Some(path) => std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(|e| Error::file("open", path, e)),
            None => otherwise
                .try_clone()
                .map_err(|e| Error::file("dup", "hook-output", e)),
        };
        let [out, err] = self.0;
        Ok([one(out)?, one(err)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(annotations: &str) -> Spec {
        let text = format!(r#"{{"ociVersion":"1.0.2","annotations":{annotations}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn values_of_crun() {
        assert!(keeps_groups(&spec(
            r#"{"run.oci.keep_original_groups":"1"}"#
        )));
        assert!(!keeps_groups(&spec(
            r#"{"run.oci.keep_original_groups":"0"}"#
        )));
        assert!(!keeps_groups(&spec("{}")));
        assert_eq!(context_type(&spec("{}")).unwrap(), "context");
        let kind = |value: &str| spec(&format!(r#"{{"run.oci.mount_context_type":"{value}"}}"#));
        assert_eq!(context_type(&kind("rootcontext")).unwrap(), "rootcontext");
        assert!(context_type(&kind("x")).is_err());
    }
}
