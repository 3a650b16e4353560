//! `rrun update`.

use crate::args;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::container::Container;
use rrun_core::oci::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use rrun_core::{Error, Result, update};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Help text.
pub const HELP: &str = "\
change the resource limits of a container

USAGE:
    rrun update [OPTIONS] CONTAINER-ID

OPTIONS:
    -r, --resources FILE        the new limits as JSON (linux.resources of the
                                specification); - reads standard input; all
                                other options are then ignored
    --memory BYTES              memory limit; 512M, 1.5G; -1 is unlimited
    --memory-swap BYTES         memory and swap together; -1 is unlimited
    --memory-reservation BYTES  soft limit
    --cpu-quota MICROSECONDS    processor time in each period; -1 is unlimited
    --cpu-period MICROSECONDS   the period
    --cpu-burst MICROSECONDS    time that may be saved up
    --cpu-share SHARES          weight against other containers
    --cpu-idle 0|1              run only when nothing else does
    --cpu-rt-period, --cpu-rt-runtime MICROSECONDS
                                real-time limits (cgroup v1)
    --cpuset-cpus LIST          processors, as 0-2,5
    --cpuset-mems LIST          memory nodes
    --blkio-weight WEIGHT       10 to 1000
    --pids-limit COUNT          tasks; -1 is unlimited
    --l3-cache-schema SCHEMA    Intel RDT: cache, as L3:0=f
    --mem-bw-schema SCHEMA      Intel RDT: memory bandwidth, as MB:0=20

EXAMPLES:
    rrun update --memory 256M --memory-swap 256M --pids-limit 100 first
    echo '{\"cpu\":{\"quota\":50000,\"period\":100000}}' | rrun update -r - first
";

/// What the options name.
#[derive(Default)]
struct Request {
    id: Option<String>,
    file: Option<PathBuf>,
    memory: LinuxMemory,
    cpu: LinuxCpu,
    io: LinuxBlockIo,
    pids: Option<i64>,
    l3_cache: Option<String>,
    bandwidth: Option<String>,
}

impl Request {
    fn parse(mut parser: Parser) -> Result<Self> {
        let mut request = Self::default();
        while let Some(arg) = parser.next().map_err(args::usage)? {
            match arg {
                Arg::Short('r') | Arg::Long("resources") => {
                    request.file = Some(args::path(&mut parser)?);
                }
                Arg::Long(name) => {
                    let name = name.to_owned();
                    let value = args::text(&mut parser)?;
                    // runc's callers pass empty values for what does not change.
                    if !value.is_empty() {
                        request.option(&name, &value)?;
                    }
                }
                Arg::Value(value) if request.id.is_none() => {
                    request.id = Some(args::string(value)?);
                }
                other => return Err(args::unexpected(other)),
            }
        }
        Ok(request)
    }

    fn option(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "memory" => self.memory.set_limit(Some(bytes(name, value)?)),
            "memory-swap" => self.memory.set_swap(Some(bytes(name, value)?)),
            "memory-reservation" => self.memory.set_reservation(Some(bytes(name, value)?)),
            "kernel-memory" => self.memory.set_kernel(Some(bytes(name, value)?)),
            "kernel-memory-tcp" => self.memory.set_kernel_tcp(Some(bytes(name, value)?)),
            _ => return self.cpu_option(name, value),
        };
        Ok(())
    }

    fn cpu_option(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "cpu-quota" => self.cpu.set_quota(Some(number(name, value)?)),
            "cpu-period" => self.cpu.set_period(Some(number(name, value)?)),
            "cpu-burst" => self.cpu.set_burst(Some(number(name, value)?)),
            "cpu-share" => self.cpu.set_shares(Some(number(name, value)?)),
            "cpu-idle" => self.cpu.set_idle(Some(number(name, value)?)),
            "cpu-rt-period" => self.cpu.set_realtime_period(Some(number(name, value)?)),
            "cpu-rt-runtime" => self.cpu.set_realtime_runtime(Some(number(name, value)?)),
            "cpuset-cpus" => self.cpu.set_cpus(Some(value.to_owned())),
            "cpuset-mems" => self.cpu.set_mems(Some(value.to_owned())),
            "blkio-weight" => {
                self.io.set_weight(Some(number(name, value)?));
                return Ok(());
            }
            "pids-limit" => {
                self.pids = Some(number(name, value)?);
                return Ok(());
            }
            "l3-cache-schema" => {
                self.l3_cache = Some(value.to_owned());
                return Ok(());
            }
            "mem-bw-schema" => {
                self.bandwidth = Some(value.to_owned());
                return Ok(());
            }
            _ => {
                return Err(Error::Usage(format!(
                    "invalid option '--{name}'; see 'rrun update --help'"
                )));
            }
        };
        Ok(())
    }

    fn resources(&self) -> Result<LinuxResources> {
        if let Some(path) = &self.file {
            return read(path);
        }
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        resources
            .set_memory(Some(self.memory))
            .set_cpu(Some(self.cpu.clone()))
            .set_block_io(Some(self.io.clone()))
            .set_pids(self.pids.map(|limit| {
                let mut pids = LinuxPids::default();
                pids.set_limit(limit);
                pids
            }));
        Ok(resources)
    }
}

/// Limits as JSON; parts that hold nothing are as if they were not there.
fn read(path: &Path) -> Result<LinuxResources> {
    let mut text = String::new();
    let result = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    result.map_err(|e| Error::file("read", path, e))?;
    let parsed = serde_json::from_str(&text).and_then(|mut value: serde_json::Value| {
        if let Some(object) = value.as_object_mut() {
            object.retain(|_, part| part.as_object().is_none_or(|p| !p.is_empty()));
        }
        serde_json::from_value(value)
    });
    parsed.map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| {
        Error::Usage(format!(
            "invalid value for {name}: {value:?} is no number in its range"
        ))
    })
}

/// A size as Docker writes it: a number with a fraction, then k, m, g, t or p
/// (powers of 1024), then `b` or `ib`; or -1.
fn bytes(name: &str, value: &str) -> Result<i64> {
    if value == "-1" {
        return Ok(-1);
    }
    parse_size(value)
        .ok_or_else(|| Error::Usage(format!("invalid value for {name}: invalid size: '{value}'")))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the factor is a power of two below 2^51"
)]
fn parse_size(value: &str) -> Option<i64> {
    let value = value.to_ascii_lowercase();
    let end = value
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(value.len());
    let (digits, unit) = value.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let factor = 1i64 << (10 * power);
    if let Ok(whole) = digits.parse::<i64>() {
        return whole.checked_mul(factor);
    }
    let fraction: f64 = digits.parse().ok()?;
    Some((fraction * factor as f64) as i64)
}

/// Changes limits of a container that exists; its device rules stay.
pub fn run(global: &Global, parser: Parser) -> Result<u8> {
    let request = Request::parse(parser)?;
    let Some(id) = &request.id else {
        return Err(args::no_id("update"));
    };
    let container = Container::load(&global.root, id)?;
    update::update(&container, &request.resources()?)?;
    if request.l3_cache.is_some() || request.bandwidth.is_some() {
        let (cache, bandwidth) = (request.l3_cache.as_deref(), request.bandwidth.as_deref());
        rrun_core::rdt::update(&container, cache, bandwidth)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_as_docker_writes_them() {
        for (text, size) in [
            ("512", Some(512)),
            ("32k", Some(32 << 10)),
            ("1.5G", Some(3 << 29)),
            ("10 MiB", Some(10 << 20)),
            ("2gb", Some(2 << 30)),
            ("x", None),
            ("1q", None),
            ("", None),
            ("99999999999p", None),
        ] {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }
}
