//! `/metrics`: this process in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use hyper::Method;

use super::Context;
use super::body::{Answer, Body, answer};
use crate::store::Selector;

/// Requests by verb, resource and code.
#[derive(Default)]
pub(super) struct Requests(Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>);

impl Requests {
    /// Counts one.
    pub fn count(&self, method: &Method, resource: &'static str, code: u16) {
        // A client can make up methods: they are not to fill the memory.
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let mut known = known.into_iter();
        let verb = known.find(|v| *v == method.as_str()).unwrap_or("OTHER");
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry((verb, resource, code)).or_default() += 1;
    }
}

/// `GET /metrics`.
pub(super) fn metrics(cx: &Context) -> Answer {
    let mut out = String::new();
    head(&mut out, "apiserver_request_total", "counter", "Requests.");
    let all = cx.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
    for ((verb, resource, code), count) in all.iter() {
        let _ = writeln!(
            out,
            "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}"
        );
    }
    drop(all);
    head(
        &mut out,
        "apiserver_storage_objects",
        "gauge",
        "Objects kept.",
    );
    for res in cx.client.every_kind() {
        let count = cx.client.list(res, "", &Selector::all()).items.len();
        let _ = writeln!(
            out,
            "apiserver_storage_objects{{resource=\"{}\"}} {count}",
            res.qualified()
        );
    }
    process(&mut out);
    answer(
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        Body::Full(out.into()),
    )
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// What every exporter tells of its process, by `/proc/self`.
fn process(out: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may have blanks: fields are counted from behind it (proc_pid_stat(5)).
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |n: usize| -> f64 {
        fields
            .get(n - 3)
            .and_then(|f| f.parse().ok())
            .unwrap_or(0.0)
    };
    let small = |n: u64| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let ticks = small(rustix::param::clock_ticks_per_second());
    let page = small(rustix::param::page_size() as u64);
    let uptime = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot: f64 = uptime
        .lines()
        .find_map(|l| l.strip_prefix("btime "))
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0.0);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let rows = [
        (
            "process_cpu_seconds_total",
            "counter",
            (field(14) + field(15)) / ticks,
        ),
        ("process_resident_memory_bytes", "gauge", field(24) * page),
        ("process_virtual_memory_bytes", "gauge", field(23)),
        (
            "process_start_time_seconds",
            "gauge",
            boot + field(22) / ticks,
        ),
        ("process_open_fds", "gauge", small(files as u64)),
    ];
    for (name, kind, value) in rows {
        head(out, name, kind, "Of this process.");
        let _ = writeln!(out, "{name} {value}");
    }
}
