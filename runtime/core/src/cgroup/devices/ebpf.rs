//! The device program of v2 (BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15), emitted by hand.
//!
//! The kernel calls it with a `struct bpf_cgroup_dev_ctx` in r1: u32 access (low
//! half the type, 1 block or 2 char; high half mknod 1, read 2, write 4), u32
//! major, u32 minor. It answers 1 to allow.
//!
//! ```text
//! r2 = type, r3 = access, r4 = major, r5 = minor
//! for each exception:  r2 != type  → next
//!                      r3 not as the exception says → next
//!                      r4 != major → next (unless any); r5 != minor → next (unless any)
//!                      return !default
//! return default
//! ```

use super::rules::{ALL, Kind, Policy};

/// Load a word from memory: `dst = *(u32 *)(src + off)`.
const LDX_W: u8 = 0x61;
/// `dst &= imm`, 32 bits.
const AND32_K: u8 = 0x54;
/// `dst >>= imm`, 32 bits.
const RSH32_K: u8 = 0x74;
/// `dst = src`, 32 bits.
const MOV32_X: u8 = 0xbc;
/// `dst = imm`, 64 bits.
const MOV64_K: u8 = 0xb7;
/// `if dst != imm goto +off`, 32 bits: device numbers above 2^31 compare unsigned.
const JNE32_K: u8 = 0x56;
/// `if dst != src goto +off`, 32 bits.
const JNE32_X: u8 = 0x5e;
/// `if dst == imm goto +off`, 32 bits.
const JEQ32_K: u8 = 0x16;
/// Return r0.
const EXIT: u8 = 0x95;

/// One instruction: `struct bpf_insn` as the kernel reads it.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: u32) -> u64 {
    u64::from_ne_bytes({
        let mut bytes = [0; 8];
        bytes[0] = code;
        bytes[1] = if cfg!(target_endian = "little") {
            src << 4 | dst
        } else {
            dst << 4 | src
        };
        bytes[2..4].copy_from_slice(&off.to_ne_bytes());
        bytes[4..].copy_from_slice(&imm.to_ne_bytes());
        bytes
    })
}

/// The program for `policy`.
pub fn program(policy: &Policy) -> Vec<u64> {
    let mut code = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV32_X, 3, 2, 0, 0),
        insn(AND32_K, 2, 0, 0, 0xffff),
        insn(RSH32_K, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for (what, access) in &policy.exceptions {
        let kind = if what.kind == Kind::Block { 1 } else { 2 };
        // (code, dst, src, imm): all jumps go to the next exception.
        let mut tests = vec![(JNE32_K, 2, 0, kind)];
        if *access != ALL {
            tests.push((MOV32_X, 1, 3, 0));
            tests.push((AND32_K, 1, 0, u32::from(*access)));
            // To be allowed, all of the access must be in the exception; to be denied, any.
            tests.push(if policy.allow {
                (JEQ32_K, 1, 0, 0)
            } else {
                (JNE32_X, 1, 3, 0)
            });
        }
        tests.extend(what.major.map(|n| (JNE32_K, 4, 0, n)));
        tests.extend(what.minor.map(|n| (JNE32_K, 5, 0, n)));
        let length = tests.len() + 2;
        for (at, (op, dst, src, imm)) in tests.into_iter().enumerate() {
            let jump = !matches!(op, MOV32_X | AND32_K);
            let off = if jump { (length - at - 1) as i16 } else { 0 };
            code.push(insn(op, dst, src, off, imm));
        }
        code.push(insn(MOV64_K, 0, 0, 0, u32::from(!policy.allow)));
        code.push(insn(EXIT, 0, 0, 0, 0));
    }
    code.push(insn(MOV64_K, 0, 0, 0, u32::from(policy.allow)));
    code.push(insn(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::policy;
    use super::super::rules::{MKNOD, READ, WRITE};
    use super::*;

    /// Runs a program as the kernel would, on one access.
    fn run(code: &[u64], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
        let kind = if kind == Kind::Block { 1 } else { 2 };
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut r = [0u64; 11];
        let mut pc = 0;
        loop {
            let b = code[pc].to_ne_bytes();
            let (dst, src) = ((b[1] & 15) as usize, (b[1] >> 4) as usize);
            let off = i16::from_ne_bytes([b[2], b[3]]);
            let imm = u32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
            let low = r[dst] as u32;
            pc += 1;
            let jump = match b[0] {
                LDX_W => {
                    assert_eq!(src, 1, "loads from the context alone");
                    r[dst] = u64::from(context[off as usize / 4]);
                    false
                }
                AND32_K => {
                    r[dst] = u64::from(low & imm);
                    false
                }
                RSH32_K => {
                    r[dst] = u64::from(low >> imm);
                    false
                }
                MOV32_X => {
                    r[dst] = u64::from(r[src] as u32);
                    false
                }
                MOV64_K => {
                    r[dst] = i64::from(imm as i32) as u64;
                    false
                }
                JNE32_K => low != imm,
                JNE32_X => low != r[src] as u32,
                JEQ32_K => low == imm,
                EXIT => return r[0] == 1,
                other => panic!("instruction {other:#x} at {}", pc - 1),
            };
            if jump {
                assert!(off >= 0, "no jump backwards");
                pc += off as usize;
            }
        }
    }

    #[test]
    fn default_policy_allows_null_and_mknod_alone() {
        let code = program(&Policy::from_spec(&[]).unwrap());
        assert!(run(&code, Kind::Char, READ | WRITE, 1, 3));
        assert!(run(&code, Kind::Char, READ | WRITE, 136, 77));
        assert!(run(&code, Kind::Block, MKNOD, 8, 0));
        assert!(!run(&code, Kind::Block, READ, 8, 0));
        assert!(!run(&code, Kind::Char, READ, 1, 1));
        assert!(!run(&code, Kind::Char, READ | MKNOD, 10, 1));
    }

    #[test]
    fn partial_access_needs_all_of_it_allowed() {
        let rules = r#"[{"allow":true,"type":"c","major":9,"minor":1,"access":"r"}]"#;
        let code = program(&policy(rules).unwrap());
        assert!(run(&code, Kind::Char, READ, 9, 1));
        assert!(!run(&code, Kind::Char, READ | WRITE, 9, 1));
        assert!(!run(&code, Kind::Char, READ, 9, 2));
    }

    #[test]
    fn partial_denial_is_not_evaded_by_asking_for_more() {
        let rules = r#"[{"allow":true,"access":"rwm"},
            {"allow":false,"type":"b","major":8,"access":"w"}]"#;
        let code = program(&policy(rules).unwrap());
        assert!(run(&code, Kind::Block, READ, 8, 4));
        assert!(!run(&code, Kind::Block, WRITE, 8, 4));
        assert!(!run(&code, Kind::Block, READ | WRITE, 8, 4));
        assert!(run(&code, Kind::Char, WRITE, 8, 4));
    }

    #[test]
    fn numbers_above_2_31_compare_unsigned() {
        let rules = r#"[{"allow":true,"type":"c","major":4294967295,"access":"rwm"}]"#;
        let code = program(&policy(rules).unwrap());
        assert!(run(&code, Kind::Char, READ, u32::MAX, 1));
        assert!(!run(&code, Kind::Char, READ, 1, 1));
    }
}
