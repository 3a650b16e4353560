//! The OCI seccomp profile as a BPF program, compiled by libseccomp and cached
//! by the content of the profile.

mod build;
mod cache;
mod names;
pub mod profile;
mod ranges;
mod stub;

use crate::{Context, Error, Result, debug};
use libseccomp::ScmpVersion;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use rrun_sys::seccomp::Instruction;
use std::path::{Path, PathBuf};

/// Most instructions that the kernel takes (BPF_MAXINSNS).
const LONGEST: usize = 4096;

/// A compiled profile, ready for [`rrun_sys::seccomp::load`].
#[derive(Debug, Clone)]
pub struct Filter {
    /// The program.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`, NEW_LISTENER included where an action is SCMP_ACT_NOTIFY.
    pub flags: u32,
    /// Where the listener goes.
    pub listener: Option<Listener>,
}

/// `listenerPath` and `listenerMetadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// A unix socket.
    pub path: PathBuf,
    /// Opaque data for it.
    pub metadata: String,
}

/// Compiles `profile`, or takes it from the cache below `cache_dir` (owned by the
/// caller, mode 0700; made when it is not there). A profile that allows everything
/// is a filter like any other: programs look for it in /proc/self/status.
pub fn compile(profile: &LinuxSeccomp, cache_dir: Option<&Path>) -> Result<Option<Filter>> {
    let mut flags = profile::flags(profile)?;
    let listener = listener(profile)?;
    if listener.is_some() {
        flags |= profile::NEW_LISTENER;
    }
    let program = match cache_dir {
        None => build::program(profile)?,
        Some(dir) => cached(profile, dir)?,
    };
    if program.len() > LONGEST {
        let why = format!(
            "the profile needs {} instructions, and the kernel takes {LONGEST}; name fewer system calls with conditions",
            program.len()
        );
        return Err(Error::config("linux.seccomp.syscalls", why));
    }
    debug!("seccomp filter flags: {flags}");
    Ok(Some(Filter {
        program,
        flags,
        listener,
    }))
}

fn cached(profile: &LinuxSeccomp, dir: &Path) -> Result<Vec<Instruction>> {
    let key = key(profile).context("write the seccomp profile as the key of its filter")?;
    if let Some(program) = cache::get(dir, &key) {
        return Ok(program);
    }
    let program = build::program(profile)?;
    if let Err(error) = cache::put(dir, &key, &program) {
        debug!("seccomp filter not kept in {}: {error}", dir.display());
    }
    Ok(program)
}

/// Everything that the program depends on.
fn key(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    let library = library_version();
    let mut key = format!(
        "{} {} libseccomp {library}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    )
    .into_bytes();
    serde_json::to_writer(&mut key, profile).map_err(|source| Error::Json {
        path: "linux.seccomp".into(),
        source,
    })?;
    Ok(key)
}

/// The listener of a profile in which a rule notifies; it must say where it is.
fn listener(profile: &LinuxSeccomp) -> Result<Option<Listener>> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    if !profile
        .syscalls()
        .iter()
        .flatten()
        .any(|call| call.action() == notify)
    {
        return Ok(None);
    }
    let Some(path) = profile
        .listener_path()
        .clone()
        .filter(|p| !p.as_os_str().is_empty())
    else {
        return Err(Error::config(
            "linux.seccomp.listenerPath",
            "seccomp listenerPath is not set, and a rule has SCMP_ACT_NOTIFY",
        ));
    };
    let metadata = profile.listener_metadata().clone().unwrap_or_default();
    Ok(Some(Listener { path, metadata }))
}

/// A program in the kernel's layout.
fn encode(program: &[Instruction]) -> Vec<u8> {
    let one = |i: &Instruction| {
        let (code, k) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
        [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
    };
    program.iter().flat_map(one).collect()
}

/// The reverse of [`encode`]; `None` when it does not end with an instruction.
fn decode(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (all, rest) = bytes.as_chunks::<8>();
    let one = |b: &[u8; 8]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    rest.is_empty().then(|| all.iter().map(one).collect())
}

/// Version of libseccomp, as "2.5.4".
pub fn library_version() -> String {
    ScmpVersion::current().map_or_else(|_| "unknown".into(), |version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(json: &str) -> Result<Filter> {
        let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
        Ok(compile(&profile, None)?.expect("a filter"))
    }

    #[test]
    fn flags_are_as_runc_sets_them() {
        let with = |flags: &str| {
            filter(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#))
                .unwrap()
                .flags
        };
        assert_eq!(with(""), profile::SPEC_ALLOW);
        assert_eq!(with(r#","flags":[]"#), 0);
        assert_eq!(
            with(r#","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG"]"#),
            2
        );
    }

    #[test]
    fn notify_needs_a_listener_and_is_not_for_write_nor_the_default() {
        let rule = |name: &str, rest: &str| {
            filter(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW"{rest},
                    "syscalls":[{{"names":["{name}"],"action":"SCMP_ACT_NOTIFY"}}]}}"#
            ))
        };
        let path = r#","listenerPath":"/run/agent.sock","listenerMetadata":"m""#;
        assert!(
            rule("mkdir", "")
                .unwrap_err()
                .chain()
                .contains("listenerPath is not set")
        );
        assert!(
            rule("write", path)
                .unwrap_err()
                .chain()
                .contains("write syscall")
        );
        let found = rule("mkdir", path).unwrap();
        assert_eq!(found.flags & profile::NEW_LISTENER, profile::NEW_LISTENER);
        assert_eq!(found.listener.unwrap().metadata, "m");
        assert!(filter(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).is_err());
    }

    #[test]
    fn calls_newer_than_the_profile_get_enosys_and_own_names_work() {
        let found = filter(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"],
                "syscalls":[{"names":["read","statmount"],"action":"SCMP_ACT_ALLOW"}]}"#,
        )
        .unwrap();
        let native = profile::audit_arch(libseccomp::ScmpArch::native());
        let stub_length = found.program.len();
        assert!(stub_length > 5);
        if cfg!(target_arch = "x86_64") {
            let run = |number| stub::tests::run_whole(&found.program, native, number);
            assert_eq!(run(0), 0x7fff_0000, "read");
            assert_eq!(run(457), 0x7fff_0000, "statmount");
            assert_eq!(run(458), stub::RET_ENOSYS, "listmount");
            assert_eq!(run(1), 0x0005_0001, "write");
        }
    }
}
