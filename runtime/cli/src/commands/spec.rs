//! `rrun spec`.

use crate::args;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::{Error, Result, cgroup};
use std::io::Write;
use std::path::PathBuf;

/// Help text.
pub const HELP: &str = "\
write a configuration to start from: config.json

USAGE:
    rrun spec [OPTIONS]

OPTIONS:
    -b, --bundle DIR   write it there [.]
    -f, --file FILE    under another name [config.json]
    --rootless         for a user who is not root: a user namespace with the
                       caller's ids, no network namespace, no limits

EXAMPLES:
    rrun spec && sed -i 's;\"sh\";\"/hello\";' config.json && rrun run first
";

/// What runc writes on a machine with cgroup v1. Tabs, and no newline at the end.
const DEFAULT: &str = include_str!("spec.json");

const RESOURCES: &str = "\t\t\"resources\": {
\t\t\t\"devices\": [
\t\t\t\t{
\t\t\t\t\t\"allow\": false,
\t\t\t\t\t\"access\": \"rwm\"
\t\t\t\t}
\t\t\t]
\t\t},
";
const NETWORK: &str = "\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n";
const SYS: &str = "\t\t\t\"type\": \"sysfs\",
\t\t\t\"source\": \"sysfs\",
\t\t\t\"options\": [
";
const SYS_BIND: &str = "\t\t\t\"type\": \"none\",
\t\t\t\"source\": \"/sys\",
\t\t\t\"options\": [
\t\t\t\t\"rbind\",
";
const GID: &str = ",\n\t\t\t\t\"gid=5\"";

/// The caller's ids, for the mappings.
#[derive(Debug, Clone, Copy)]
struct Ids {
    uid: u32,
    gid: u32,
}

/// One edit of the text; each is of a part that is there once.
fn replace(text: &str, from: &str, to: &str) -> String {
    debug_assert_eq!(text.matches(from).count(), 1, "{from:?}");
    text.replacen(from, to, 1)
}

fn namespace(text: &str, name: &str) -> String {
    let more = format!("\t\t\t}},\n\t\t\t{{\n\t\t\t\t\"type\": \"{name}\"\n\t\t\t}}\n\t\t],\n");
    replace(
        text,
        "\t\t\t}\n\t\t],\n\t\t\"maskedPaths\"",
        &(more + "\t\t\"maskedPaths\""),
    )
}

fn mapping(name: &str, id: u32) -> String {
    format!(
        "\t\t\"{name}\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n"
    )
}

/// The configuration: with a cgroup namespace on pure v2; rootless with `ids`.
fn text(unified: bool, rootless: Option<Ids>) -> String {
    let mut text = DEFAULT.to_owned();
    if unified {
        text = namespace(&text, "cgroup");
    }
    if let Some(ids) = rootless {
        text = namespace(&text, "user");
        text = replace(&text, NETWORK, "");
        text = replace(&text, SYS, SYS_BIND);
        text = replace(&text, GID, "");
        let maps = mapping("uidMappings", ids.uid) + &mapping("gidMappings", ids.gid);
        text = replace(&text, RESOURCES, &maps);
    }
    text
}

/// Writes config.json (crun's `--file`: another name); an existing one is left alone.
pub fn run(_global: &Global, mut parser: Parser) -> Result<u8> {
    let (mut bundle, mut rootless) = (PathBuf::new(), false);
    let mut file = PathBuf::from("config.json");
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('b') | Arg::Long("bundle") => bundle = args::path(&mut parser)?,
            Arg::Short('f') | Arg::Long("file") => file = args::path(&mut parser)?,
            Arg::Long("rootless") => rootless = args::switch(&mut parser)?,
            other => return Err(args::unexpected(other)),
        }
    }
    let ids = Ids {
        uid: rrun_sys::cred::euid(),
        gid: rrun_sys::cred::egid(),
    };
    let text = text(cgroup::hierarchy::is_unified(), rootless.then_some(ids));
    let path = bundle.join(file);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path);
    match file.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(0),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Usage(format!(
            "File {} exists. Remove it first",
            path.display()
        ))),
        Err(e) => Err(Error::file("write", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_core::oci::{LinuxNamespaceType, Spec};

    fn namespaces(text: &str) -> Vec<LinuxNamespaceType> {
        let spec: Spec = serde_json::from_str(text).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        linux
            .namespaces()
            .iter()
            .flatten()
            .map(rrun_core::oci::LinuxNamespace::typ)
            .collect()
    }

    #[test]
    fn every_variant_is_a_specification() {
        use LinuxNamespaceType as T;
        let plain = [T::Pid, T::Network, T::Ipc, T::Uts, T::Mount];
        assert_eq!(namespaces(&text(false, None)), plain);
        assert_eq!(namespaces(&text(true, None))[5..], [T::Cgroup]);
        let rootless = text(true, Some(Ids { uid: 7, gid: 8 }));
        assert_eq!(
            namespaces(&rootless),
            [T::Pid, T::Ipc, T::Uts, T::Mount, T::Cgroup, T::User]
        );
        let spec: Spec = serde_json::from_str(&rootless).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.resources().is_none());
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 7);
        assert!(!rootless.contains("gid=") && rootless.contains("rbind"));
    }
}
