//! The words of an OCI profile in libseccomp's terms.

use crate::{Error, Result};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};
use std::str::FromStr;

/// EPERM, the errno of an action that names none.
const EPERM: u32 = 1;
/// Highest errno that the kernel passes on (MAX_ERRNO).
const MAX_ERRNO: u32 = 4095;

/// SECCOMP_FILTER_FLAG_LOG (4.14).
pub const LOG: u32 = 1 << 1;
/// SECCOMP_FILTER_FLAG_SPEC_ALLOW (4.17).
pub const SPEC_ALLOW: u32 = 1 << 2;
/// SECCOMP_FILTER_FLAG_NEW_LISTENER (5.0).
pub const NEW_LISTENER: u32 = 1 << 3;
/// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (5.19).
pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// An action with its errno; `field` names where it stands.
pub fn action(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    field: impl Fn() -> String,
) -> Result<ScmpAction> {
    use LinuxSeccompAction as A;
    if let Some(errno) = errno {
        // runtime-spec config-linux.md#seccomp: an errno for another action is an error.
        if !matches!(action, A::ScmpActErrno | A::ScmpActTrace) {
            return Err(Error::config(
                field(),
                format!("{action} takes no errno; remove it"),
            ));
        }
        if action == A::ScmpActErrno && errno > MAX_ERRNO || errno > u32::from(u16::MAX) {
            return Err(Error::config(
                field(),
                format!("{errno} is no errno (at most {MAX_ERRNO})"),
            ));
        }
    }
    let errno = errno.unwrap_or(EPERM);
    Ok(match action {
        A::ScmpActKill | A::ScmpActKillThread => ScmpAction::KillThread,
        A::ScmpActKillProcess => ScmpAction::KillProcess,
        A::ScmpActTrap => ScmpAction::Trap,
        A::ScmpActErrno => ScmpAction::Errno(errno as i32),
        A::ScmpActNotify => ScmpAction::Notify,
        A::ScmpActTrace => ScmpAction::Trace(errno as u16),
        A::ScmpActLog => ScmpAction::Log,
        A::ScmpActAllow => ScmpAction::Allow,
    })
}

/// The value that a program returns for an action (`SECCOMP_RET_*`).
pub fn return_value(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(errno) => 0x0005_0000 | errno as u32,
        ScmpAction::Notify => 0x7fc0_0000,
        ScmpAction::Trace(value) => 0x7ff0_0000 | u32::from(value),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        // KillThread, and whatever a newer libseccomp may add.
        _ => 0,
    }
}

/// Architectures of the profile with the machine's own, which is always among them.
pub fn architectures(profile: &LinuxSeccomp) -> Result<Vec<ScmpArch>> {
    let mut found = vec![ScmpArch::native()];
    for arch in profile.architectures().iter().flatten() {
        let arch = architecture(*arch)?;
        if arch != ScmpArch::Native && !found.contains(&arch) {
            found.push(arch);
        }
    }
    Ok(found)
}

fn architecture(arch: Arch) -> Result<ScmpArch> {
    let name = arch.to_string();
    ScmpArch::from_str(&name).map_err(|_| {
        Error::config(
            "linux.seccomp.architectures",
            format!("libseccomp does not know {name}"),
        )
    })
}

/// `AUDIT_ARCH_*`, as the kernel tells a program; x32 is x86_64 there.
pub fn audit_arch(arch: ScmpArch) -> u32 {
    let arch = match arch {
        ScmpArch::X86 => Arch::ScmpArchX86,
        ScmpArch::X8664 | ScmpArch::X32 => Arch::ScmpArchX86_64,
        ScmpArch::Arm => Arch::ScmpArchArm,
        ScmpArch::Aarch64 => Arch::ScmpArchAarch64,
        ScmpArch::Loongarch64 => Arch::ScmpArchLoongarch64,
        ScmpArch::M68k => Arch::ScmpArchM68k,
        ScmpArch::Mips => Arch::ScmpArchMips,
        ScmpArch::Mips64 => Arch::ScmpArchMips64,
        ScmpArch::Mips64N32 => Arch::ScmpArchMips64n32,
        ScmpArch::Mipsel => Arch::ScmpArchMipsel,
        ScmpArch::Mipsel64 => Arch::ScmpArchMipsel64,
        ScmpArch::Mipsel64N32 => Arch::ScmpArchMipsel64n32,
        ScmpArch::Ppc => Arch::ScmpArchPpc,
        ScmpArch::Ppc64 => Arch::ScmpArchPpc64,
        ScmpArch::Ppc64Le => Arch::ScmpArchPpc64le,
        ScmpArch::S390 => Arch::ScmpArchS390,
        ScmpArch::S390X => Arch::ScmpArchS390x,
        ScmpArch::Parisc => Arch::ScmpArchParisc,
        ScmpArch::Parisc64 => Arch::ScmpArchParisc64,
        ScmpArch::Riscv64 => Arch::ScmpArchRiscv64,
        ScmpArch::Sheb => Arch::ScmpArchSheb,
        ScmpArch::Sh => Arch::ScmpArchSh,
        _ => Arch::ScmpArchNative,
    };
    arch as u32
}

/// A condition on an argument.
pub fn compare(arg: &LinuxSeccompArg, field: impl Fn() -> String) -> Result<ScmpArgCompare> {
    use LinuxSeccompOperator as O;
    if arg.index() > 5 {
        let why = format!("a system call has arguments 0 to 5, not {}", arg.index());
        return Err(Error::config(field(), why));
    }
    // MASKED_EQ: argument & value == valueTwo.
    let (op, datum) = match arg.op() {
        O::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        O::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        O::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        O::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        O::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        O::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        O::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
    };
    Ok(ScmpArgCompare::new(arg.index() as u32, op, datum))
}

/// `SECCOMP_FILTER_FLAG_*` of the profile. Without a list, SPEC_ALLOW where the kernel
/// has it (runc's rule). TSYNC is known and has no effect: there is one thread.
pub fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    let Some(flags) = profile.flags() else {
        let known = rrun_sys::seccomp::knows_flags(SPEC_ALLOW);
        return Ok(if known { SPEC_ALLOW } else { 0 });
    };
    let mut bits = 0;
    for flag in flags {
        if !is_supported(*flag) {
            let why = format!("this kernel does not have {flag}");
            return Err(Error::config("linux.seccomp.flags", why));
        }
        bits |= flag_bit(*flag);
    }
    Ok(bits)
}

/// Whether this kernel takes `flag`. TSYNC is taken and has no effect.
pub fn is_supported(flag: LinuxSeccompFilterFlag) -> bool {
    let bit = flag_bit(flag);
    // WAIT_KILLABLE_RECV is taken only together with NEW_LISTENER.
    let probe = if bit == WAIT_KILLABLE_RECV {
        bit | NEW_LISTENER
    } else {
        bit
    };
    bit == 0 || rrun_sys::seccomp::knows_flags(probe)
}

/// The bit of a flag; 0 for TSYNC.
pub fn flag_bit(flag: LinuxSeccompFilterFlag) -> u32 {
    use LinuxSeccompFilterFlag as F;
    match flag {
        F::SeccompFilterFlagTsync => 0,
        F::SeccompFilterFlagLog => LOG,
        F::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
        F::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_of_the_specification_is_known() {
        for name in [
            "X86",
            "X86_64",
            "X32",
            "ARM",
            "AARCH64",
            "MIPS",
            "MIPS64",
            "MIPS64N32",
            "MIPSEL",
            "MIPSEL64",
            "MIPSEL64N32",
            "PPC",
            "PPC64",
            "PPC64LE",
            "S390",
            "S390X",
            "RISCV64",
        ] {
            let json = format!("\"SCMP_ARCH_{name}\"");
            let arch: Arch = serde_json::from_str(&json).unwrap();
            let scmp = architecture(arch).unwrap();
            if name != "X32" {
                assert_eq!(audit_arch(scmp), arch as u32, "{name}");
            }
        }
    }

    #[test]
    fn errno_is_for_errno_and_trace_alone() {
        let field = || "f".to_owned();
        let a = LinuxSeccompAction::ScmpActErrno;
        assert_eq!(action(a, None, field).unwrap(), ScmpAction::Errno(1));
        assert_eq!(action(a, Some(38), field).unwrap(), ScmpAction::Errno(38));
        assert!(action(a, Some(5000), field).is_err());
        assert!(action(LinuxSeccompAction::ScmpActAllow, Some(1), field).is_err());
    }
}
