//! Compiling a profile: libseccomp's program behind our stub.

use super::{names, profile, ranges, stub};
use crate::{Error, Result, debug};
use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSyscall};
use rrun_sys::seccomp::Instruction;
use std::io::{Read, Seek};

/// From how many names on libseccomp sorts them into a binary tree (runc's number).
const TREE_FROM: usize = 32;

/// What goes into the filter, gathered while the profile is read.
struct Builder {
    filter: ScmpFilterContext,
    default: ScmpAction,
    architectures: Vec<ScmpArch>,
    /// Rules for names that libseccomp does not know: (name, action).
    own: Vec<(String, ScmpAction)>,
}

/// Compiles `profile`.
pub fn program(profile: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let code = whole(profile)?;
    Ok(ranges::shorten(&code).unwrap_or(code))
}

/// The stub and libseccomp's program, which tests each system call on its own.
pub(super) fn whole(profile: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let default = profile::action(
        profile.default_action(),
        profile.default_errno_ret(),
        || "linux.seccomp.defaultErrnoRet".into(),
    )?;
    if default == ScmpAction::Notify {
        return Err(Error::config(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY cannot be used as default action",
        ));
    }
    let architectures = profile::architectures(profile)?;
    let filter = ScmpFilterContext::new(default).map_err(|e| failed(&e))?;
    let mut builder = Builder {
        filter,
        default,
        architectures,
        own: Vec::new(),
    };
    builder.prepare(profile)?;
    for (index, call) in profile.syscalls().iter().flatten().enumerate() {
        builder.call(call, index)?;
    }
    let mut code = stub::emit(&builder.sections(profile));
    code.extend(builder.export()?);
    Ok(code)
}

fn failed(error: &libseccomp::error::SeccompError) -> Error {
    Error::Unsupported(format!("libseccomp: {error}").into())
}

impl Builder {
    fn prepare(&mut self, profile: &LinuxSeccomp) -> Result<()> {
        for arch in &self.architectures {
            if !self.filter.is_arch_present(*arch).map_err(|e| failed(&e))? {
                self.filter.add_arch(*arch).map_err(|e| failed(&e))?;
            }
        }
        let names: usize = profile
            .syscalls()
            .iter()
            .flatten()
            .map(|c| c.names().len())
            .sum();
        if names > TREE_FROM
            && let Err(error) = self.filter.set_ctl_optimize(2)
        {
            debug!("seccomp binary tree optimization not available: {error}");
        }
        Ok(())
    }

    fn call(&mut self, call: &LinuxSyscall, index: usize) -> Result<()> {
        let field = |name: &str| format!("linux.seccomp.syscalls[{index}].{name}");
        let action = profile::action(call.action(), call.errno_ret(), || field("errnoRet"))?;
        let compare = call.args().iter().flatten().enumerate();
        let conditions = compare
            .map(|(at, arg)| profile::compare(arg, || field(&format!("args[{at}].index"))))
            .collect::<Result<Vec<_>>>()?;
        // libseccomp takes one condition for each argument in a rule: with more, each becomes a
        // rule of its own (runc's rule).
        let mut indexes: Vec<_> = call
            .args()
            .iter()
            .flatten()
            .map(oci_spec::runtime::LinuxSeccompArg::index)
            .collect();
        indexes.sort_unstable();
        let split = indexes.windows(2).any(|pair| pair[0] == pair[1]);
        for name in call.names() {
            if name.is_empty() {
                return Err(Error::config(
                    field("names"),
                    "empty string is not a valid syscall",
                ));
            }
            // The listener's descriptor is told with write(2) after the filter is in force.
            if action == ScmpAction::Notify && name == "write" {
                let why = "SCMP_ACT_NOTIFY cannot be used for the write syscall";
                return Err(Error::config(field("names"), why));
            }
            if action == self.default {
                continue;
            }
            self.rule(name, action, &conditions, split)?;
        }
        Ok(())
    }

    fn rule(
        &mut self,
        name: &str,
        action: ScmpAction,
        conditions: &[libseccomp::ScmpArgCompare],
        split: bool,
    ) -> Result<()> {
        let Ok(number) = ScmpSyscall::from_name(name) else {
            if conditions.is_empty()
                && self
                    .architectures
                    .iter()
                    .any(|a| names::number(name, *a).is_some())
            {
                self.own.push((name.to_owned(), action));
            } else {
                debug!("unknown seccomp syscall {name:?} ignored");
            }
            return Ok(());
        };
        let result = if conditions.is_empty() {
            self.filter.add_rule(action, number).map(|_| ())
        } else if split {
            conditions.iter().try_for_each(|one| {
                self.filter
                    .add_rule_conditional(action, number, &[*one])
                    .map(|_| ())
            })
        } else {
            self.filter
                .add_rule_conditional(action, number, conditions)
                .map(|_| ())
        };
        result.map_err(|error| {
            let what = format!("error adding seccomp filter rule for syscall {name}");
            Error::Step {
                what: what.into(),
                source: Box::new(failed(&error)),
            }
        })
    }

    /// What the stub has to know of each architecture.
    fn sections(&self, profile: &LinuxSeccomp) -> Vec<stub::Section> {
        let mut sections: Vec<stub::Section> = Vec::new();
        // Where unknown calls pass anyway, or get ENOSYS anyway, there is nothing to add.
        let lax = matches!(
            self.default,
            ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)
        ) || profile::return_value(self.default) == stub::RET_ENOSYS;
        for arch in &self.architectures {
            let audit = profile::audit_arch(*arch);
            if !sections.iter().any(|s| s.arch == audit) {
                sections.push(stub::Section {
                    arch: audit,
                    ..stub::Section::default()
                });
            }
            let section = sections
                .iter_mut()
                .find(|s| s.arch == audit)
                .expect("it was just put there");
            section.zero_is_unknown |= !lax && matches!(arch, ScmpArch::S390 | ScmpArch::S390X);
            let own = self.own.iter().filter_map(|(name, action)| {
                Some((names::number(name, *arch)?, profile::return_value(*action)))
            });
            section.rules.extend(own);
            let last = if lax { None } else { last(profile, *arch) };
            if *arch == ScmpArch::X32 {
                section.last_x32 = last;
            } else {
                section.last = last;
            }
        }
        sections
    }

    /// libseccomp's program.
    fn export(&self) -> Result<Vec<Instruction>> {
        let mut file = std::fs::File::from(rrun_sys::seccomp::scratch()?);
        self.filter.export_bpf(&file).map_err(|e| failed(&e))?;
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .map_err(|e| Error::file("read", "memfd:seccomp", e))?;
        super::decode(&bytes).ok_or_else(|| {
            Error::Unsupported(
                "libseccomp exported a program that ends within an instruction".into(),
            )
        })
    }
}

/// The highest number on `arch` of a system call that the profile names.
fn last(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(LinuxSyscall::names);
    names
        .filter_map(|name| match ScmpSyscall::from_name_by_arch(name, arch) {
            // Negative: libseccomp's stand-in for one that the architecture does not have.
            Ok(number) => u32::try_from(number.as_raw_syscall()).ok(),
            Err(_) => names::number(name, arch),
        })
        .max()
}
