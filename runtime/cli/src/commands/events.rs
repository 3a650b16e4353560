//! `rrun events`.

use crate::args;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::cgroup::Cgroup;
use rrun_core::cgroup::oom::Event;
use rrun_core::cgroup::stats::Stats;
use rrun_core::container::{Container, Status};
use rrun_core::{Context, Error, Result, warning};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Help text.
pub const HELP: &str = "\
print resource usage and events of a container, one JSON document a line

USAGE:
    rrun events [OPTIONS] CONTAINER-ID

OPTIONS:
    --stats               print the usage once, and end
    --interval DURATION   between two prints, as 500ms or 1m30s [5s]

Without --stats it ends when the container does; a process killed for want of
memory is told by {\"type\":\"oom\"}.

EXAMPLES:
    rrun events --stats first | jq .data.memory.usage
";

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

fn print(kind: &str, id: &str, data: Option<Stats>) -> Result<()> {
    let text = serde_json::to_string(&Line { kind, id, data }).map_err(|source| Error::Json {
        path: "events".into(),
        source,
    })?;
    args::print(&(text + "\n"))
}

/// A duration as Go writes it: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += value * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total)
        .ok()
        .filter(|d| !d.is_zero())
}

/// Prints figures at intervals, and events as they come.
pub fn run(global: &Global, mut parser: Parser) -> Result<u8> {
    let (mut once, mut interval, mut id) = (false, Duration::from_secs(5), None);
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Long("stats") => once = args::switch(&mut parser)?,
            Arg::Long("interval") => {
                let text = args::text(&mut parser)?;
                interval = duration(&text).ok_or_else(|| {
                    Error::Usage(format!(
                        "duration interval {text:?} must be greater than 0, as 5s"
                    ))
                })?;
            }
            Arg::Value(value) if id.is_none() => id = Some(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let id = id.ok_or_else(|| args::no_id("events"))?;
    let container = Container::load(&global.root, &id)?;
    if container.status()? == Status::Stopped {
        return Err(Error::State(
            format!("container with id {id} is not running").into(),
        ));
    }
    let cgroup = container.cgroup()?;
    if once {
        print(
            "stats",
            &id,
            Some(cgroup.stats().context("read the container's figures")?),
        )?;
        return Ok(0);
    }
    follow(&id, &cgroup, interval)
}

fn follow(id: &str, cgroup: &Cgroup, interval: Duration) -> Result<u8> {
    let mut monitor = cgroup
        .oom_monitor()
        .context("watch the container's memory")?;
    let mut next = Instant::now() + interval;
    loop {
        match monitor.next(next.saturating_duration_since(Instant::now()))? {
            Event::Oom => print("oom", id, None)?,
            Event::Gone => return Ok(0),
            Event::Timeout => {
                next += interval;
                match cgroup.stats() {
                    Ok(stats) => print("stats", id, Some(stats))?,
                    Err(error) => warning!("{}", error.chain()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("0.5s"), Some(Duration::from_millis(500)));
        for wrong in ["", "5", "s", "0s", "-1s", "1d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
