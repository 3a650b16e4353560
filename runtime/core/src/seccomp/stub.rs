//! What runs before libseccomp's program: rules for system calls that libseccomp
//! does not know, and ENOSYS for those that are newer than the profile.
//!
//! A C library that tries a new system call falls back on ENOSYS, but not on the
//! EPERM that profiles answer by default (runc 1.0-rc93's rule): whatever has a
//! higher number than every system call named in the profile gets ENOSYS.
//!
//! ```text
//! load arch
//! for each architecture:  arch != A → next
//!     load number
//!     number == N → its action     for each own rule
//!     number >  last → ENOSYS
//!     go to libseccomp's program
//! ```

use rrun_sys::seccomp::Instruction;

/// Set in the number of an x32 system call.
pub const X32_BIT: u32 = 0x4000_0000;
/// SECCOMP_RET_ERRNO with ENOSYS (38 on all architectures but MIPS and PA-RISC).
pub const RET_ENOSYS: u32 = 0x0005_0000
    | if cfg!(any(target_arch = "mips", target_arch = "mips64")) {
        89
    } else {
        38
    };

pub(super) const LOAD: u16 = 0x20;
pub(super) const RETURN: u16 = 0x06;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;

/// One architecture as the kernel tells it (`AUDIT_ARCH_*`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Highest number named in the profile; `None`: no ENOSYS rule.
    pub last: Option<u32>,
    /// The same for x32, whose numbers have [`X32_BIT`].
    pub last_x32: Option<u32>,
    /// Number and `SECCOMP_RET_*` value.
    pub rules: Vec<(u32, u32)>,
    /// s390 tells system calls that the kernel does not know as number 0.
    pub zero_is_unknown: bool,
}

pub(super) fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A test: the next instruction when it holds, else `jf` further.
fn test(code: u16, k: u32, jf: u8) -> Instruction {
    Instruction { code, jt: 0, jf, k }
}

impl Section {
    fn body(&self) -> Vec<Instruction> {
        let mut code = vec![op(LOAD, NUMBER)];
        for (number, action) in &self.rules {
            code.extend([test(JUMP_EQUAL, *number, 1), op(RETURN, *action)]);
        }
        if self.zero_is_unknown {
            code.extend([test(JUMP_EQUAL, 0, 1), op(RETURN, RET_ENOSYS)]);
        }
        if let Some(last) = self.last_x32 {
            // x32's own limit, and past the other.
            let skip = if self.last.is_some() { 3 } else { 2 };
            code.push(test(JUMP_AT_LEAST, X32_BIT, skip));
            code.extend([test(JUMP_GREATER, last, 1), op(RETURN, RET_ENOSYS)]);
            if self.last.is_some() {
                code.push(op(JUMP, 2));
            }
        }
        if let Some(last) = self.last {
            code.extend([test(JUMP_GREATER, last, 1), op(RETURN, RET_ENOSYS)]);
        }
        code
    }

    fn is_empty(&self) -> bool {
        self.last.is_none() && self.last_x32.is_none() && self.rules.is_empty()
    }
}

/// The stub for `sections`, to be put before a program. Empty when there is nothing to do.
pub fn emit(sections: &[Section]) -> Vec<Instruction> {
    let bodies: Vec<_> = sections
        .iter()
        .filter(|s| !s.is_empty())
        .map(|s| (s.arch, s.body()))
        .collect();
    if bodies.is_empty() {
        return Vec::new();
    }
    // Each is: test of the architecture, jump past it, the body, jump to the end of the stub.
    let total: usize = 1 + bodies.iter().map(|(_, body)| body.len() + 3).sum::<usize>();
    let mut code = vec![op(LOAD, ARCH)];
    for (arch, body) in bodies {
        code.push(test(JUMP_EQUAL, arch, 0));
        // A jump offset of a test has 8 bits; that of JUMP has 32.
        code.last_mut().expect("just pushed").jt = 1;
        code.push(op(JUMP, body.len() as u32 + 1));
        code.extend(body);
        let here = code.len() + 1;
        code.push(op(JUMP, (total - here) as u32));
    }
    code
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs classic BPF as seccomp does, on one system call.
    pub fn run(code: &[Instruction], arch: u32, number: u32) -> Option<u32> {
        let (mut a, mut pc) = (0u32, 0usize);
        while let Some(i) = code.get(pc) {
            pc += 1;
            let holds = match i.code {
                LOAD => {
                    a = if i.k == ARCH { arch } else { number };
                    continue;
                }
                RETURN => return Some(i.k),
                JUMP => {
                    pc += i.k as usize;
                    continue;
                }
                JUMP_EQUAL => a == i.k,
                JUMP_GREATER => a > i.k,
                JUMP_AT_LEAST => a >= i.k,
                other => panic!("instruction {other:#x}"),
            };
            pc += usize::from(if holds { i.jt } else { i.jf });
        }
        assert_eq!(pc, code.len(), "the stub ends at the program's start");
        None
    }

    /// Runs a whole program.
    pub fn run_whole(code: &[Instruction], arch: u32, number: u32) -> u32 {
        run(code, arch, number).expect("a program returns")
    }

    #[test]
    fn newer_calls_get_enosys_and_known_ones_pass() {
        let sections = [
            Section {
                arch: 1,
                last: Some(450),
                last_x32: Some(X32_BIT | 300),
                ..Section::default()
            },
            Section {
                arch: 2,
                last: Some(10),
                rules: vec![(9, 77), (462, 78)],
                ..Section::default()
            },
            Section {
                arch: 3,
                ..Section::default()
            },
        ];
        let code = emit(&sections);
        assert_eq!(run(&code, 1, 450), None);
        assert_eq!(run(&code, 1, 451), Some(RET_ENOSYS));
        assert_eq!(run(&code, 1, X32_BIT | 300), None);
        assert_eq!(run(&code, 1, X32_BIT | 301), Some(RET_ENOSYS));
        assert_eq!(run(&code, 2, 9), Some(77));
        assert_eq!(run(&code, 2, 462), Some(78));
        assert_eq!(run(&code, 2, 11), Some(RET_ENOSYS));
        assert_eq!(run(&code, 2, 10), None);
        assert_eq!(run(&code, 3, 999), None);
        assert_eq!(run(&code, 4, 999), None);
    }

    #[test]
    fn only_x32_has_a_limit() {
        let section = Section {
            arch: 1,
            last_x32: Some(X32_BIT | 5),
            ..Section::default()
        };
        let code = emit(&[section]);
        assert_eq!(run(&code, 1, 1000), None);
        assert_eq!(run(&code, 1, X32_BIT | 6), Some(RET_ENOSYS));
        assert_eq!(run(&code, 1, X32_BIT | 5), None);
    }

    #[test]
    fn nothing_to_do_is_no_code() {
        assert_eq!(emit(&[Section::default()]), []);
    }
}
