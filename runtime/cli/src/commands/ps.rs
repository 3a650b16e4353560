//! `rrun ps`.

use crate::args;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::container::Container;
use rrun_core::{Error, Result};
use std::process::Command;

/// Help text.
pub const HELP: &str = "\
list the processes of a container

USAGE:
    rrun ps [OPTIONS] CONTAINER-ID [PS-OPTIONS]

OPTIONS:
    -f, --format FORMAT   table or json: the process ids [table]

The table is the host's `ps` (-ef unless options are given) without the lines
of other processes; it must have a PID column.

EXAMPLES:
    rrun ps first
    rrun ps first -o pid,rss,args
";

/// Prints process ids of the host.
pub fn run(global: &Global, mut parser: Parser) -> Result<u8> {
    let (mut json, mut id, mut options) = (false, None, Vec::new());
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Short('f') | Arg::Long("format") => {
                json = match args::text(&mut parser)?.as_str() {
                    "json" => true,
                    "table" => false,
                    _ => return Err(Error::Usage("invalid format option".into())),
                }
            }
            Arg::Value(value) => {
                id = Some(args::string(value)?);
                options.extend(parser.raw_args().map_err(args::usage)?);
                break;
            }
            other => return Err(args::unexpected(other)),
        }
    }
    let id = id.ok_or_else(|| args::no_id("ps"))?;
    let container = Container::load(&global.root, &id)?;
    let pids = pids(&container)?;
    if json {
        let list = serde_json::to_string(&pids).expect("numbers are plain data");
        args::print(&(list + "\n"))?;
        return Ok(0);
    }
    if options.is_empty() {
        options.push("-ef".into());
    }
    let output = Command::new("ps")
        .args(&options)
        .output()
        .map_err(|e| Error::file("execute", "ps", e))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Usage(format!(
            "ps: {}: {}",
            output.status,
            text.trim_end()
        )));
    }
    args::print(&filter(&String::from_utf8_lossy(&output.stdout), &pids)?)?;
    Ok(0)
}

/// A stopped container whose cgroup is gone has no processes.
fn pids(container: &Container) -> Result<Vec<i32>> {
    match container.cgroup()?.pids() {
        Err(e) if e.errno() == Some(rrun_sys::process::ENOENT) && !container.is_alive() => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// The header, and the lines whose PID column is one of `pids`.
fn filter(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::Usage("couldn't find PID field in ps output".into()))?;
    let mut text = format!("{header}\n");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|field| field.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn only_the_containers_lines() {
        let table = "UID  PID CMD\nroot   1 init\nroot 17 sh 1\n";
        assert_eq!(
            filter(table, &[17]).unwrap(),
            "UID  PID CMD\nroot 17 sh 1\n"
        );
        assert!(filter("UID CMD\n", &[1]).is_err());
    }
}
