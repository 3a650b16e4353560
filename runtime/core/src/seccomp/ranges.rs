//! A shorter program with the same verdicts: libseccomp tests every system call of a profile on
//! its own, though most that lie side by side have the same action. Of the 1,400 instructions of a
//! profile of 430 names 200 are left, and loading it takes the kernel 0.2 ms less (it translates
//! each instruction, and runs the program for every number to learn which always pass).
//!
//! What a program answers depends on the architecture, the number, and for few numbers on the
//! arguments. Between two constants that it compares the number with, it cannot tell numbers apart:
//! so it is run once for each such range, until it answers or loads something else. The new
//! program searches the ranges by halves. Where the old one went on to arguments, the new one goes
//! on with a copy of its instructions from there.

use super::stub::{ARCH, JUMP, JUMP_AT_LEAST, JUMP_EQUAL, JUMP_GREATER, LOAD, NUMBER, RETURN, op};
use rrun_sys::seccomp::Instruction;
use std::collections::BTreeSet;

/// What a program comes to with only the architecture and the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Returns a `SECCOMP_RET_*` value.
    Returns(u32),
    /// Goes on to the arguments: index of the instruction that loads the first.
    GoesOn(usize),
}

/// First number of each range, and what it comes to; the first range begins at 0.
type Ranges<T> = Vec<(u32, T)>;

/// A program that answers as `program` does, if one can be told that is shorter.
pub fn shorten(program: &[Instruction]) -> Option<Vec<Instruction>> {
    let (archs, numbers) = boundaries(program)?;
    let of_arch = |arch: u32| {
        ranges(&numbers, |number| {
            verdict(program, arch, number).expect("it was looked at whole")
        })
    };
    let table = ranges(&archs, of_arch);
    let short = Writer::write(program, &table)?;
    (short.len() < program.len()).then_some(short)
}

/// Where the program can begin to answer otherwise: for the architecture and for the number.
/// `None` when it does with them what is not understood here.
fn boundaries(program: &[Instruction]) -> Option<(BTreeSet<u32>, BTreeSet<u32>)> {
    let mut found = (BTreeSet::from([0]), BTreeSet::from([0]));
    // An instruction, and what was loaded before it.
    let mut seen = BTreeSet::new();
    let mut todo = vec![(0, NUMBER)];
    while let Some((at, loaded)) = todo.pop() {
        if !seen.insert((at, loaded)) {
            continue;
        }
        let i = program.get(at)?;
        match i.code {
            LOAD if matches!(i.k, NUMBER | ARCH) => todo.push((at + 1, i.k)),
            LOAD | RETURN => {}
            JUMP => todo.push((at + 1 + i.k as usize, loaded)),
            JUMP_EQUAL | JUMP_GREATER | JUMP_AT_LEAST => {
                let all = if loaded == ARCH {
                    &mut found.0
                } else {
                    &mut found.1
                };
                all.extend([i.k, i.k.saturating_add(1)]);
                todo.extend([i.jt, i.jf].map(|offset| (at + 1 + usize::from(offset), loaded)));
            }
            _ => return None,
        }
    }
    Some(found)
}

/// Runs the program as far as it needs nothing else. It only ever jumps forward.
fn verdict(program: &[Instruction], arch: u32, number: u32) -> Option<Verdict> {
    let (mut a, mut at) = (0, 0);
    loop {
        let i = program.get(at)?;
        at += 1;
        let holds = match i.code {
            LOAD if i.k == ARCH => {
                a = arch;
                continue;
            }
            LOAD if i.k == NUMBER => {
                a = number;
                continue;
            }
            LOAD => return Some(Verdict::GoesOn(at - 1)),
            RETURN => return Some(Verdict::Returns(i.k)),
            JUMP => {
                at += i.k as usize;
                continue;
            }
            JUMP_EQUAL => a == i.k,
            JUMP_GREATER => a > i.k,
            JUMP_AT_LEAST => a >= i.k,
            _ => return None,
        };
        at += usize::from(if holds { i.jt } else { i.jf });
    }
}

/// What comes of each range between `boundaries`; neighbours that are equal become one.
fn ranges<T: PartialEq>(boundaries: &BTreeSet<u32>, of: impl Fn(u32) -> T) -> Ranges<T> {
    let mut ranges: Ranges<T> = Vec::new();
    for &first in boundaries {
        let value = of(first);
        if ranges.last().is_none_or(|(_, last)| *last != value) {
            ranges.push((first, value));
        }
    }
    ranges
}

/// Writes a program from its end: whatever an instruction jumps to is there already.
struct Writer {
    /// In reverse.
    code: Vec<Instruction>,
    /// Returned value, and where it is returned last.
    returns: Vec<(u32, usize)>,
    /// Of the old program's instructions, where their copies are.
    copies: Vec<Option<usize>>,
}

impl Writer {
    fn write(program: &[Instruction], table: &Ranges<Ranges<Verdict>>) -> Option<Vec<Instruction>> {
        let mut writer = Self {
            code: Vec::new(),
            returns: Vec::new(),
            copies: vec![None; program.len()],
        };
        writer.copy(program, table)?;
        let start = writer.search(table, &mut |writer, numbers| {
            let start = writer.search(numbers, &mut |writer, verdict| match verdict {
                Verdict::Returns(value) => writer.returning(*value),
                Verdict::GoesOn(at) => writer.copies[*at].expect("copied before the search"),
            });
            writer.put_before(start, op(LOAD, NUMBER))
        });
        writer.put_before(start, op(LOAD, ARCH));
        writer.code.reverse();
        Some(writer.code)
    }

    /// Puts an instruction before all others, and tells its place: how many it makes to the end.
    fn put(&mut self, instruction: Instruction) -> usize {
        self.code.push(instruction);
        self.code.len()
    }

    /// Puts one that goes on with what is at `place`.
    fn put_before(&mut self, place: usize, instruction: Instruction) -> usize {
        match self.distance(place) as u32 {
            0 => self.put(instruction),
            distance => {
                self.put(op(JUMP, distance));
                self.put(instruction)
            }
        }
    }

    /// How many instructions lie between the next one that is put and `place`.
    fn distance(&self, place: usize) -> usize {
        self.code.len() - place
    }

    /// A place that a test put next, or after `more` others, reaches: `place`, or a jump there.
    fn near(&mut self, place: usize, more: usize) -> usize {
        let distance = self.distance(place);
        if u8::try_from(distance + more).is_ok() {
            return place;
        }
        self.put(op(JUMP, distance as u32))
    }

    /// Where `value` is returned, within a test's reach.
    fn returning(&mut self, value: u32) -> usize {
        let known = self.returns.iter().position(|(known, _)| *known == value);
        match known {
            Some(index) if self.distance(self.returns[index].1) < 200 => self.returns[index].1,
            known => {
                let place = self.put(op(RETURN, value));
                match known {
                    Some(index) => self.returns[index].1 = place,
                    None => self.returns.push((value, place)),
                }
                place
            }
        }
    }

    /// A test, with what it jumps to.
    fn test(&mut self, code: u16, k: u32, holds: usize, fails: usize) -> usize {
        // A jump that is put for one of them moves the other one away.
        let holds = self.near(holds, 1);
        let fails = self.near(fails, 0);
        let (jt, jf) = (self.distance(holds) as u8, self.distance(fails) as u8);
        self.put(Instruction { code, jt, jf, k })
    }

    /// Finds the range that the loaded value is in; `leaf` puts what is done in one.
    fn search<T>(
        &mut self,
        ranges: &[(u32, T)],
        leaf: &mut impl FnMut(&mut Self, &T) -> usize,
    ) -> usize {
        if let [(_, value)] = ranges {
            return leaf(self, value);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let above = self.search(high, leaf);
        let below = self.search(low, leaf);
        self.test(JUMP_AT_LEAST, high[0].0, above, below)
    }

    /// Copies what can be reached from where the old program goes on.
    fn copy(&mut self, program: &[Instruction], table: &Ranges<Ranges<Verdict>>) -> Option<()> {
        let mut wanted = BTreeSet::new();
        let mut todo: Vec<usize> = table
            .iter()
            .flat_map(|(_, numbers)| numbers)
            .filter_map(|(_, verdict)| match verdict {
                Verdict::GoesOn(at) => Some(*at),
                Verdict::Returns(_) => None,
            })
            .collect();
        while let Some(at) = todo.pop() {
            if wanted.insert(at) {
                todo.extend(next(at, *program.get(at)?));
            }
        }
        for at in wanted.into_iter().rev() {
            let place = self.copy_one(at, program[at]);
            self.copies[at] = Some(place);
        }
        Some(())
    }

    fn copy_one(&mut self, at: usize, i: Instruction) -> usize {
        let place = |writer: &Self, at: usize| writer.copies[at].expect("later ones come first");
        match i.code {
            RETURN => self.returning(i.k),
            JUMP => place(self, at + 1 + i.k as usize),
            code if is_test(code) => {
                let [holds, fails] =
                    [i.jt, i.jf].map(|offset| place(self, at + 1 + usize::from(offset)));
                self.test(code, i.k, holds, fails)
            }
            _ => self.put_before(place(self, at + 1), i),
        }
    }
}

/// Class BPF_JMP, but for the jump without a condition.
fn is_test(code: u16) -> bool {
    code & 7 == JUMP && code != JUMP
}

/// Which instructions can come after that at `at`.
fn next(at: usize, i: Instruction) -> Vec<usize> {
    match i.code {
        RETURN => vec![],
        JUMP => vec![at + 1 + i.k as usize],
        code if is_test(code) => vec![at + 1 + usize::from(i.jt), at + 1 + usize::from(i.jf)],
        _ => vec![at + 1],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{build, profile};
    use super::*;
    use libseccomp::ScmpArch;
    use oci_spec::runtime::LinuxSeccomp;

    /// Runs classic BPF as seccomp does.
    fn run(code: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let (mut a, mut at) = (0u32, 0);
        let mut steps = 0;
        loop {
            let i = code[at];
            at += 1;
            steps += 1;
            assert!(steps <= code.len(), "programs only jump forward");
            let holds = match i.code {
                LOAD => {
                    a = match i.k {
                        NUMBER => number,
                        ARCH => arch,
                        k => {
                            let arg = args[(k as usize - 16) / 8];
                            if k % 8 == 0 {
                                arg as u32
                            } else {
                                (arg >> 32) as u32
                            }
                        }
                    };
                    continue;
                }
                RETURN => return i.k,
                JUMP => {
                    at += i.k as usize;
                    continue;
                }
                0x54 => {
                    a &= i.k;
                    continue;
                }
                JUMP_EQUAL => a == i.k,
                JUMP_GREATER => a > i.k,
                JUMP_AT_LEAST => a >= i.k,
                0x45 => a & i.k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { i.jt } else { i.jf });
        }
    }

    const ARGS: [u64; 7] = [0, 1, 7, 0x8000, 0x2_0000_0000, 0x2_0000_0007, u64::MAX];

    /// Compares both programs for every number that could matter; how long they are.
    fn same(program: &[Instruction]) -> (usize, usize) {
        let Some(short) = shorten(program) else {
            return (program.len(), program.len());
        };
        let archs = [ScmpArch::X8664, ScmpArch::X86, ScmpArch::Aarch64].map(profile::audit_arch);
        let numbers = (0..700).flat_map(|n| [n, n | super::super::stub::X32_BIT]);
        let (_, more) = boundaries(program).unwrap();
        for number in numbers.chain(more).chain([u32::MAX, i32::MAX as u32]) {
            for arch in archs.into_iter().chain([0, u32::MAX]) {
                for (index, arg) in ARGS.into_iter().enumerate() {
                    let args = [arg, ARGS[6 - index], arg, arg, arg, arg];
                    assert_eq!(
                        run(&short, arch, number, args),
                        run(program, arch, number, args),
                        "arch {arch:#x}, number {number:#x}, arguments {args:x?}"
                    );
                }
            }
        }
        (program.len(), short.len())
    }

    /// libseccomp's program; it refuses rules that contradict each other.
    fn compiled(json: &str) -> Option<Vec<Instruction>> {
        let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
        build::whole(&profile).ok()
    }

    fn name(number: u32) -> Option<String> {
        let name = libseccomp::ScmpSyscall::from(number as i32).get_name();
        name.ok()
    }

    const ARCHITECTURES: &str =
        r#""architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"]"#;

    #[test]
    fn profile_of_many_names_becomes_a_few_ranges() {
        if cfg!(not(target_arch = "x86_64")) {
            return;
        }
        let skipped = [
            "mount",
            "bpf",
            "kexec_load",
            "personality",
            "reboot",
            "ptrace",
            "swapon",
        ];
        let names: Vec<_> = (0..440)
            .filter_map(name)
            .filter(|name| !skipped.contains(&name.as_str()))
            .collect();
        let (long, short) = same(
            &compiled(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO",{ARCHITECTURES},"syscalls":[
                {{"names":{names:?},"action":"SCMP_ACT_ALLOW"}},
                {{"names":["personality"],"action":"SCMP_ACT_ALLOW",
                  "args":[{{"index":0,"value":8,"op":"SCMP_CMP_EQ"}}]}}]}}"#
            ))
            .unwrap(),
        );
        assert!(long > 1000, "{long}");
        assert!(short < 300, "{short}");
    }

    /// Profiles by chance: names, actions, conditions.
    #[test]
    fn shortened_program_answers_as_the_long_one() {
        if cfg!(not(target_arch = "x86_64")) {
            return;
        }
        let mut seed = 7u64;
        let mut below = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        let actions = ["ALLOW", "ERRNO", "KILL_PROCESS", "TRAP", "LOG"];
        let ops = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
        let mut shorter = 0;
        for _ in 0..60 {
            let of = |index: u64| format!("SCMP_ACT_{}", actions[index as usize]);
            let default = of(below(3));
            let mut rules = Vec::new();
            for _ in 0..below(60) {
                let first = below(430) as u32;
                let names: Vec<_> = (first..first + 1 + below(12) as u32)
                    .filter_map(name)
                    .collect();
                let conditions = match below(4) {
                    0 => format!(
                        r#","args":[{{"index":{},"value":{},"valueTwo":7,"op":"SCMP_CMP_{}"}}]"#,
                        below(6),
                        ARGS[below(6) as usize],
                        ops[below(7) as usize]
                    ),
                    _ => String::new(),
                };
                let action = of(below(5));
                rules.push(format!(
                    r#"{{"names":{names:?},"action":"{action}"{conditions}}}"#
                ));
            }
            let rules = rules.join(",");
            let profile = compiled(&format!(
                r#"{{"defaultAction":"{default}",{ARCHITECTURES},"syscalls":[{rules}]}}"#
            ));
            if let Some((long, short)) = profile.map(|program| same(&program)) {
                shorter += usize::from(short < long);
            }
        }
        assert!(shorter > 10, "{shorter}");
    }

    #[test]
    fn program_that_is_not_understood_is_left_alone() {
        // A number that is masked before it is compared.
        let masked = [
            op(LOAD, NUMBER),
            op(0x54, 0xff),
            Instruction {
                code: JUMP_EQUAL,
                jt: 0,
                jf: 1,
                k: 3,
            },
            op(RETURN, 0),
            op(RETURN, 1),
        ];
        assert_eq!(shorten(&masked), None);
        // One that ends within itself.
        assert_eq!(shorten(&masked[..1]), None);
    }
}
