//! System calls that libseccomp 2.5.4 (Linux 5.17's table) does not know.

use libseccomp::ScmpArch;

/// Since Linux 5.1 a new system call has one number on every architecture
/// (asm-generic/unistd.h, arch/*/syscall.tbl, Linux 6.18).
const COMMON: [(&str, u32); 19] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// x86_64's own (arch/x86/entry/syscalls/syscall_64.tbl).
const X86_64: [(&str, u32); 2] = [("uretprobe", 335), ("uprobe", 336)];

/// riscv64's own (arch/riscv/include/uapi/asm/unistd.h).
const RISCV64: [(&str, u32); 2] = [("riscv_hwprobe", 258), ("riscv_flush_icache", 259)];

/// The number of `name` on `arch`, from this table alone.
pub fn number(name: &str, arch: ScmpArch) -> Option<u32> {
    let own: &[(&str, u32)] = match arch {
        ScmpArch::X8664 => &X86_64,
        ScmpArch::Riscv64 => &RISCV64,
        _ => &[],
    };
    let (_, number) = COMMON.iter().chain(own).find(|(known, _)| *known == name)?;
    Some(number + base(arch))
}

/// Where the architecture's numbers start.
fn base(arch: ScmpArch) -> u32 {
    match arch {
        ScmpArch::X32 => super::stub::X32_BIT,
        ScmpArch::Mips | ScmpArch::Mipsel => 4000,
        ScmpArch::Mips64 | ScmpArch::Mipsel64 => 5000,
        ScmpArch::Mips64N32 | ScmpArch::Mipsel64N32 => 6000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_where_the_architecture_says() {
        assert_eq!(number("mseal", ScmpArch::X8664), Some(462));
        assert_eq!(number("mseal", ScmpArch::Mips64), Some(5462));
        assert_eq!(number("mseal", ScmpArch::X32), Some(0x4000_01ce));
        assert_eq!(number("uretprobe", ScmpArch::Aarch64), None);
    }
}
