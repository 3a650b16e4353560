//! Seccomp profiles: the runtime's default from a table, and profiles of the machine.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const TABLE: &str = include_str!("seccomp_default.txt");

// linux/socket.h: the families that reach past the network namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// personality(2) values that are harmless: PER_LINUX and PER_LINUX32 with and without
/// UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// All CLONE_NEW* flags but CLONE_NEWTIME, which clone(2) cannot carry.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// `linux.seccomp` of the runtime's default profile for a container with these capabilities.
pub fn runtime_default(arch: &str, bounding: &[String]) -> Value {
    let mut names = Vec::new();
    for (section, calls) in sections() {
        let wanted = match section.split_once(' ') {
            None => section == "always",
            Some(("arch", name)) => name == arch,
            Some((_, name)) => bounding.iter().any(|cap| cap == name),
        };
        if wanted {
            names.extend(calls);
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![json!({"names": names, "action": "SCMP_ACT_ALLOW"})];
    // Three ranges instead of two inequalities: rules on the same argument are alternatives.
    for (value, op) in [
        (AF_ALG, "SCMP_CMP_LT"),
        (AF_ALG + 1, "SCMP_CMP_EQ"),
        (AF_VSOCK, "SCMP_CMP_GT"),
    ] {
        rules.push(argument("socket", 0, value, op));
    }
    for value in PERSONALITIES {
        rules.push(argument("personality", 0, value, "SCMP_CMP_EQ"));
    }
    if !bounding.iter().any(|cap| cap == "CAP_SYS_ADMIN") {
        rules.push(
            json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{
                "index": u8::from(arch == "s390x"),
                "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
            }]}),
        );
        // The flags of clone3 are behind a pointer; ENOSYS makes the C library use clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": architectures(arch),
        "syscalls": rules,
    })
}

fn argument(name: &str, index: u32, value: u64, op: &str) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW",
           "args": [{"index": index, "value": value, "op": op}]})
}

fn architectures(arch: &str) -> Vec<&'static str> {
    match arch {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "s390x" => vec!["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        _ => vec![],
    }
}

fn sections() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            all.push((title, Vec::new()));
        } else if let Some((_, calls)) = all.last_mut() {
            calls.extend(line.split_ascii_whitespace());
        }
    }
    all
}

/// Checks a profile of the machine as far as the runtime would not give a better error.
pub fn from_file(path: &str, text: &str) -> Result<Value> {
    let profile: Value =
        serde_json::from_str(text).with_context(|| format!("seccomp profile {path}"))?;
    if !profile["defaultAction"].is_string() {
        bail!("seccomp profile {path}: no defaultAction");
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Value) -> Vec<&str> {
        let names = profile["syscalls"][0]["names"].as_array().unwrap();
        names.iter().map(|n| n.as_str().unwrap()).collect()
    }

    #[test]
    fn capabilities_open_their_calls() {
        let plain = runtime_default("x86_64", &[]);
        assert!(names(&plain).contains(&"read"));
        assert!(!names(&plain).contains(&"mount"));
        let admin = runtime_default("x86_64", &["CAP_SYS_ADMIN".to_owned()]);
        assert!(names(&admin).contains(&"mount"));
        assert!(plain.to_string().contains("clone3"));
        assert!(!admin.to_string().contains("MASKED_EQ"));
    }

    #[test]
    fn architectures_have_their_own_calls() {
        assert!(names(&runtime_default("x86_64", &[])).contains(&"arch_prctl"));
        assert!(!names(&runtime_default("aarch64", &[])).contains(&"arch_prctl"));
    }

    #[test]
    fn no_call_that_escapes_is_allowed_without_a_capability() {
        let profile = runtime_default("x86_64", &[]);
        for call in [
            "bpf",
            "ptrace_",
            "kexec_load",
            "init_module",
            "setns",
            "unshare",
            "reboot",
        ] {
            assert!(!names(&profile).contains(&call), "{call}");
        }
    }
}
