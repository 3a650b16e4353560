//! `rrun features` (runtime-spec features.md).

use crate::args;
use crate::globals::Global;
use lexopt::Parser;
use rrun_core::oci::LinuxSeccompFilterFlag;
use rrun_core::{Error, Result, capabilities, plan, seccomp};
use serde::Serialize;
use std::collections::BTreeMap;

/// Help text.
pub const HELP: &str = "\
print what this runtime supports, as JSON

USAGE:
    rrun features

The format is that of features.md in the OCI runtime specification.
";

/// A part that is there or not.
#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: &'static [&'static str],
    operators: &'static [&'static str],
    archs: &'static [&'static str],
    known_flags: Vec<String>,
    supported_flags: Vec<String>,
}

#[derive(Serialize)]
struct MemoryPolicy {
    modes: &'static [&'static str],
    flags: &'static [&'static str],
}

#[derive(Serialize)]
struct IntelRdt {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: &'static [&'static str],
    capabilities: Vec<String>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdt,
    memory_policy: MemoryPolicy,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: &'static [&'static str],
    mount_options: Vec<String>,
    linux: Linux,
    annotations: BTreeMap<&'static str, String>,
    potentially_unsafe_config_annotations: &'static [&'static str],
}

const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
const NAMESPACES: [&str; 8] = [
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
const ARCHITECTURES: [&str; 18] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
const MEMORY_MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MEMORY_FLAGS: [&str; 3] = [
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];
/// Annotations that change what the runtime does on the host.
const UNSAFE: [&str; 3] = [
    "org.criu.config",
    "org.systemd.property.",
    rrun_core::annotations::PREFIX,
];

fn seccomp() -> Seccomp {
    use LinuxSeccompFilterFlag as F;
    let flags = [
        F::SeccompFilterFlagTsync,
        F::SeccompFilterFlagSpecAllow,
        F::SeccompFilterFlagLog,
        F::SeccompFilterFlagWaitKillableRecv,
    ];
    let supported = flags.iter().filter(|f| seccomp::profile::is_supported(**f));
    Seccomp {
        enabled: true,
        actions: &ACTIONS,
        operators: &OPERATORS,
        archs: &ARCHITECTURES,
        known_flags: flags.iter().map(ToString::to_string).collect(),
        supported_flags: supported.map(ToString::to_string).collect(),
    }
}

fn features() -> Features {
    let yes = || Enabled { enabled: true };
    let mut annotations = BTreeMap::from([
        (
            "io.github.seccomp.libseccomp.version",
            seccomp::library_version(),
        ),
        ("run.rrun.version", env!("CARGO_PKG_VERSION").into()),
        // Docker looks for it under runc's name.
        (
            "org.opencontainers.runc.checkpoint.enabled",
            "true".to_owned(),
        ),
    ]);
    if let Some(commit) = option_env!("RRUN_COMMIT") {
        annotations.insert("run.rrun.commit", commit.into());
    }
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: rrun_core::SPEC_VERSION,
        hooks: &HOOKS,
        mount_options: plan::mounts::known_options(),
        linux: Linux {
            namespaces: &NAMESPACES,
            capabilities: capabilities::names(u64::MAX),
            cgroup: Cgroup {
                v1: true,
                v2: true,
                systemd: true,
                systemd_user: true,
                rdma: true,
            },
            seccomp: seccomp(),
            apparmor: yes(),
            selinux: yes(),
            intel_rdt: IntelRdt {
                enabled: true,
                schemata: true,
                monitoring: true,
            },
            memory_policy: MemoryPolicy {
                modes: &MEMORY_MODES,
                flags: &MEMORY_FLAGS,
            },
            mount_extensions: MountExtensions { idmap: yes() },
            net_devices: yes(),
        },
        annotations,
        potentially_unsafe_config_annotations: &UNSAFE,
    }
}

/// Prints the document, indented by four spaces as runc does.
pub fn run(_global: &Global, mut parser: Parser) -> Result<u8> {
    if let Some(arg) = parser.next().map_err(args::usage)? {
        return Err(args::unexpected(arg));
    }
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, format);
    features()
        .serialize(&mut serializer)
        .map_err(|source| Error::Json {
            path: "features".into(),
            source,
        })?;
    text.push(b'\n');
    args::print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}
