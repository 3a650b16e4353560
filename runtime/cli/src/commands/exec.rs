//! `rrun exec`.

use crate::args;
use crate::bundle::write_pid_file;
use crate::explain::Explain;
use crate::foreground::{self, Terminal};
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::cgroup::SubCgroups;
use rrun_core::container::Container;
use rrun_core::oci::{self, Process};
use rrun_core::plan::Console;
use rrun_core::{Context, Error, Result, exec, spec};
use std::path::PathBuf;

/// Options of `exec`.
#[derive(Debug, Default)]
struct Request {
    id: String,
    args: Vec<String>,
    process: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    cwd: Option<PathBuf>,
    env: Vec<String>,
    tty: bool,
    user: Option<String>,
    additional_gids: Vec<u32>,
    detach: bool,
    pid_file: Option<PathBuf>,
    label: Option<String>,
    apparmor: Option<String>,
    no_new_privs: bool,
    capabilities: Vec<String>,
    preserve_fds: u32,
    cgroup: SubCgroups,
    ignore_paused: bool,
    explain: Explain,
}

impl Request {
    fn parse(mut parser: Parser) -> Result<Self> {
        let mut r = Self::default();
        while let Some(arg) = parser.next().map_err(args::usage)? {
            match arg {
                Arg::Long("console-socket") => r.console_socket = Some(args::path(&mut parser)?),
                Arg::Long("pidfd-socket") => r.pidfd_socket = Some(args::path(&mut parser)?),
                Arg::Long("cwd") => r.cwd = Some(args::path(&mut parser)?),
                Arg::Short('e') | Arg::Long("env") => r.env.push(args::text(&mut parser)?),
                Arg::Short('t') | Arg::Long("tty") => r.tty = args::switch(&mut parser)?,
                Arg::Short('u') | Arg::Long("user") => r.user = Some(args::text(&mut parser)?),
                Arg::Short('g') | Arg::Long("additional-gids") => {
                    r.additional_gids.push(args::number(&mut parser)?);
                }
                Arg::Short('p') | Arg::Long("process") => {
                    r.process = Some(args::path(&mut parser)?);
                }
                Arg::Short('d') | Arg::Long("detach") => r.detach = args::switch(&mut parser)?,
                Arg::Long("pid-file") => r.pid_file = Some(args::path(&mut parser)?),
                Arg::Long("process-label") => r.label = Some(args::text(&mut parser)?),
                Arg::Long("apparmor") => r.apparmor = Some(args::text(&mut parser)?),
                Arg::Long("no-new-privs") => r.no_new_privs = args::switch(&mut parser)?,
                Arg::Short('c') | Arg::Long("cap") => r.capabilities.push(args::text(&mut parser)?),
                Arg::Long("preserve-fds") => r.preserve_fds = args::number(&mut parser)?,
                Arg::Long("cgroup") => add_cgroup(&mut r.cgroup, &args::text(&mut parser)?)?,
                Arg::Long("ignore-paused") => r.ignore_paused = args::switch(&mut parser)?,
                Arg::Long("explain") => r.explain = Explain::parse(&mut parser)?,
                Arg::Long("no-subreaper") => {
                    args::switch(&mut parser)?;
                }
                Arg::Value(id) if r.id.is_empty() => {
                    r.id = args::string(id)?;
                    // What follows is the command's, options included; runc takes one "--".
                    for value in parser.raw_args().map_err(args::usage)? {
                        r.args.push(args::string(value)?);
                    }
                    if r.args.first().is_some_and(|a| a == "--") {
                        r.args.remove(0);
                    }
                    break;
                }
                other => return Err(args::unexpected(other)),
            }
        }
        if r.id.is_empty() {
            return Err(args::no_id("exec"));
        }
        Ok(r)
    }

    /// The process to execute: a file's, or the container's own with the options' changes.
    fn process(&self, spec: &oci::Spec) -> Result<Process> {
        if let Some(path) = &self.process {
            let text = std::fs::read(path).map_err(|e| Error::file("read", path, e))?;
            return spec::parse_process(&text).map_err(|source| Error::Json {
                path: path.clone(),
                source,
            });
        }
        let mut p = spec.process().clone().unwrap_or_default();
        p.set_args(Some(self.args.clone()));
        p.set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            p.set_cwd(cwd.clone());
        }
        if self.label.is_some() {
            p.set_selinux_label(self.label.clone());
        }
        if self.apparmor.is_some() {
            p.set_apparmor_profile(self.apparmor.clone());
        }
        p.env_mut()
            .get_or_insert_default()
            .extend(self.env.iter().cloned());
        if self.no_new_privs {
            p.set_no_new_privileges(Some(true));
        }
        args::announce_listen_fds(&mut p);
        self.add_capabilities(&mut p);
        self.change_user(&mut p)?;
        Ok(p)
    }

    fn add_capabilities(&self, p: &mut Process) {
        if self.capabilities.is_empty() {
            return;
        }
        // Not the crate's default, which names three capabilities.
        let none = || serde_json::from_str("{}").expect("every set may be absent");
        let mut sets = p.capabilities().clone().unwrap_or_else(none);
        for name in &self.capabilities {
            let Some(capability) = spec::known_capability(&name.as_str().into()) else {
                continue;
            };
            let with = |set: &Option<oci::Capabilities>| {
                let mut set = set.clone().unwrap_or_default();
                set.insert(capability);
                Some(set)
            };
            let ambient = sets.ambient().as_ref().is_some_and(|a| !a.is_empty());
            let effective = with(sets.effective());
            let permitted = with(sets.permitted());
            let bounding = with(sets.bounding());
            sets.set_bounding(bounding)
                .set_effective(effective)
                .set_permitted(permitted);
            if ambient {
                let inheritable = with(sets.inheritable());
                let ambient = with(sets.ambient());
                sets.set_ambient(ambient).set_inheritable(inheritable);
            }
        }
        p.set_capabilities(Some(sets));
    }

    fn change_user(&self, p: &mut Process) -> Result<()> {
        if let Some(user) = &self.user {
            let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
            let id = |text: &str, what: &str| {
                // parse() alone takes "+1" as well (crun's CVE-2026-30892 began so).
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                text.parse::<u32>()
                    .ok()
                    .filter(|_| digits)
                    .ok_or_else(|| Error::Usage(format!("bad {what} {text:?}: a number is needed")))
            };
            p.user_mut().set_uid(id(uid, "uid")?);
            if !gid.is_empty() {
                p.user_mut().set_gid(id(gid, "gid")?);
            }
        }
        if !self.additional_gids.is_empty() {
            p.user_mut()
                .additional_gids_mut()
                .get_or_insert_default()
                .extend(&self.additional_gids);
        }
        Ok(())
    }
}

/// One `--cgroup`: `PATH`, or `CONTROLLER[,CONTROLLER…]:PATH`, of which there may be several.
fn add_cgroup(map: &mut SubCgroups, text: &str) -> Result<()> {
    let invalid = |why: String| Error::Usage(format!("invalid --cgroup argument: {why}"));
    let (controllers, path) = text.split_once(':').unwrap_or(("", text));
    if text.contains(':') && controllers.split(',').any(str::is_empty) {
        return Err(invalid(format!("{text} (empty <controller> prefix)")));
    }
    if controllers.is_empty() && !map.is_empty() || map.contains_key("") {
        return Err(invalid(format!("{text} (missing <controller>: prefix)")));
    }
    for controller in controllers.split(',') {
        if map.insert(controller.to_owned(), path.to_owned()).is_some() {
            return Err(invalid(format!(
                "controller {controller} specified multiple times"
            )));
        }
    }
    Ok(())
}

/// Runs one more process in a container. Exit status 255: it could not be started.
pub fn run(global: &Global, parser: Parser) -> Result<u8> {
    let request = Request::parse(parser)?;
    match execute(global, &request) {
        Ok(code) => Ok(code),
        Err(error) => {
            let error = Err::<(), _>(error).context("exec failed");
            rrun_core::log::fatal(&error.expect_err("made of one"));
            Ok(255)
        }
    }
}

fn execute(global: &Global, request: &Request) -> Result<u8> {
    if request.args.is_empty() && request.process.is_none() {
        return Err(Error::Usage("exec args cannot be empty".into()));
    }
    let container = Container::load(&global.root, &request.id)?;
    let spec = container.spec()?;
    let process = request.process(&spec)?;
    let mut relay = None;
    let console = match &request.console_socket {
        Some(path) => Some(Console::Path(path.clone())),
        None if request.detach || process.terminal() != Some(true) => None,
        None => Terminal::console(&mut relay)?,
    };
    let options = exec::Options {
        console,
        preserve_fds: request.preserve_fds + args::listen_fds(),
        cgroup: request.cgroup.clone(),
        ignore_paused: request.ignore_paused,
    };
    exec::check(&container, &options)?;
    let signals = if request.detach {
        None
    } else {
        Some(foreground::signals()?)
    };
    let steps = request.explain.before(&request.id, || {
        rrun_core::explain::of_exec(&container, &spec, &process, &options)
    })?;
    let (pid, pidfd) = exec::exec(&container, &spec, &process, &options)
        .context("unable to start container process")?;
    request.explain.after(&steps);
    if let Some(path) = &request.pid_file {
        write_pid_file(path, pid)?;
    }
    if let Some(path) = &request.pidfd_socket {
        rrun_core::create::send_pidfd(path, &pidfd)?;
    }
    let terminal = relay.map(Terminal::receive).transpose()?;
    match signals {
        Some(signals) => foreground::wait(pid, &signals, terminal),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Vec<(String, String)>> {
        let mut map = SubCgroups::new();
        args.iter().try_for_each(|a| add_cgroup(&mut map, a))?;
        Ok(map.into_iter().collect())
    }

    #[test]
    fn cgroup_is_a_path_or_controllers_with_paths() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(parsed(&["/x"]).unwrap(), [pair("", "/x")]);
        assert_eq!(
            parsed(&["cpu,cpuacct:a", "memory:b:c"]).unwrap(),
            [
                pair("cpu", "a"),
                pair("cpuacct", "a"),
                pair("memory", "b:c")
            ]
        );
        for wrong in [
            &["a", "b"][..],
            &["cpu:a", "b"],
            &[":a"],
            &["cpu:a", "cpu:b"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
