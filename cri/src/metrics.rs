//! Figures about the daemon itself, in Prometheus' text format, version 0.0.4. Those about pods
//! are CRI's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};

use crate::config::Endpoint;
use crate::daemon::Daemon;
use crate::pulls::Report;
use crate::trace::Counts;

/// Upper bounds of the histogram, in seconds: from a read of the store to a pull.
const BUCKETS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0];

/// How often and how long a call was made, by its outcome.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// Counted since the start.
#[derive(Default)]
pub struct Metrics {
    calls: Mutex<BTreeMap<(&'static str, &'static str), Calls>>,
    traces: OnceLock<Arc<Counts>>,
}

impl Metrics {
    /// A call that ended; `code` is gRPC's name of its outcome.
    pub fn call(&self, rpc: &'static str, code: &'static str, took: Duration) {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = all.entry((rpc, code)).or_default();
        let seconds = took.as_secs_f64();
        calls.count += 1;
        calls.seconds += seconds;
        for (bucket, bound) in calls.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// Spans are counted too.
    pub fn count_traces(&self, counts: Arc<Counts>) {
        // Once, at the start.
        let _ = self.traces.set(counts);
    }

    fn traces(&self, text: &mut String) {
        let Some(counts) = self.traces.get() else {
            return;
        };
        for (name, help, count) in [
            ("sent", "Spans that the collector took.", &counts.sent),
            ("dropped", "Spans that nobody took.", &counts.dropped),
        ] {
            let name = format!("rrun_cri_trace_spans_{name}_total");
            head(text, &name, "counter", help);
            let _ = writeln!(text, "{name} {}", count.load(Ordering::Relaxed));
        }
    }

    fn calls(&self, text: &mut String) {
        head(
            text,
            "rrun_cri_rpc_duration_seconds",
            "histogram",
            "CRI calls by outcome.",
        );
        let all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        for ((rpc, code), calls) in all.iter() {
            let name = "rrun_cri_rpc_duration_seconds";
            let labels = format!("rpc=\"{rpc}\",code=\"{code}\"");
            for (count, bound) in calls.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let count = calls.count;
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{name}_sum{{{labels}}} {}", calls.seconds);
            let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The whole page.
fn page(daemon: &Daemon) -> String {
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    head(
        &mut text,
        "rrun_cri_build_info",
        "gauge",
        "The version that runs.",
    );
    let _ = writeln!(text, "rrun_cri_build_info{{version=\"{version}\"}} 1");
    daemon.metrics.calls(&mut text);
    daemon.metrics.traces(&mut text);
    pulls(daemon, &mut text);
    let pods = daemon.store.sandboxes.all();
    let pods = pods.iter().map(|e| e.get().phase().to_string());
    states(&mut text, "rrun_cri_pods", "Pod sandboxes by state.", pods);
    let containers = daemon.store.containers.all();
    let containers = containers.iter().map(|e| e.get().phase().to_string());
    states(
        &mut text,
        "rrun_cri_containers",
        "Containers by state.",
        containers,
    );
    process(&mut text);
    text
}

fn pulls(daemon: &Daemon, text: &mut String) {
    let name = "rrun_cri_image_pull_bytes_total";
    head(text, name, "counter", "Bytes that came from registries.");
    let _ = writeln!(text, "{name} {}", daemon.pulls.bytes());
    let active = daemon.pulls.list();
    let name = "rrun_cri_image_pulls";
    head(text, name, "gauge", "Pulls that are under way.");
    let _ = writeln!(text, "{name} {}", active.len());
    for (name, help, value) in [
        (
            "rrun_cri_image_pull_size_bytes",
            "Bytes of the image's blobs.",
            (|p| p.size) as fn(&Report) -> u64,
        ),
        (
            "rrun_cri_image_pull_done_bytes",
            "Bytes of them that are here.",
            |p| p.bytes,
        ),
    ] {
        head(text, name, "gauge", help);
        // A client may ask for the same image twice.
        let by_image: BTreeMap<_, _> = active.iter().map(|p| (&p.image, value(p))).collect();
        for (image, bytes) in by_image {
            let image = image
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', " ");
            let _ = writeln!(text, "{name}{{image=\"{image}\"}} {bytes}");
        }
    }
}

fn states(text: &mut String, name: &str, help: &str, all: impl Iterator<Item = String>) {
    let mut counts = BTreeMap::<String, u64>::new();
    for state in all {
        *counts.entry(state).or_default() += 1;
    }
    head(text, name, "gauge", help);
    for (state, count) in counts {
        let _ = writeln!(text, "{name}{{state=\"{state}\"}} {count}");
    }
}

/// The names are those of Prometheus' own client libraries.
fn process(text: &mut String) {
    if let Ok(fds) = fs::read_dir("/proc/self/fd") {
        let name = "process_open_fds";
        head(text, name, "gauge", "Open file descriptors.");
        // The directory that is read here is one of them.
        let _ = writeln!(text, "{name} {}", fds.count().saturating_sub(1));
    }
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok());
    if let Some(pages) = pages {
        let name = "process_resident_memory_bytes";
        head(text, name, "gauge", "Resident memory size in bytes.");
        let _ = writeln!(text, "{name} {}", pages * rustix::param::page_size() as u64);
    }
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after
        .split(' ')
        .skip(12)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok());
    // A tick is a hundredth of a second on every Linux (USER_HZ).
    let seconds = Duration::from_millis(ticks.sum::<u64>() * 10).as_secs_f64();
    let name = "process_cpu_seconds_total";
    head(
        text,
        name,
        "counter",
        "User and system CPU time in seconds.",
    );
    let _ = writeln!(text, "{name} {seconds}");
}

/// Listens, and serves in a task of its own.
pub async fn serve(endpoint: &Endpoint, daemon: &Arc<Daemon>) -> Result<()> {
    let daemon = Arc::downgrade(daemon);
    let answer = move |request: Request<Incoming>| {
        let text = daemon.upgrade().map(|daemon| page(&daemon));
        async move { Ok::<_, Infallible>(answer(&request, text)) }
    };
    macro_rules! accept {
        ($listener:expr) => {{
            let listener = $listener;
            tokio::spawn(async move {
                loop {
                    let stream = match listener.accept().await {
                        Ok((stream, _)) => stream,
                        Err(error) => {
                            tracing::warn!("accept a connection for metrics: {error}");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                            continue;
                        }
                    };
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer.clone()));
                    tokio::spawn(async move {
                        // A client that breaks off is its own affair.
                        let _ = tokio::time::timeout(Duration::from_mins(1), served).await;
                    });
                }
            })
        }};
    }
    match endpoint {
        Endpoint::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            accept!(listener.with_context(|| format!("listen for metrics on {address}"))?);
        }
        Endpoint::Unix(path) => {
            let listener: UnixListener = crate::server::listen(path, "metrics_listen").await?;
            accept!(listener);
        }
    }
    Ok(())
}

fn answer(request: &Request<Incoming>, page: Option<String>) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path(), page) {
        (&Method::GET, "/metrics", Some(page)) => (200, page),
        (_, "/metrics", None) => (503, "the daemon is ending\n".to_owned()),
        (_, "/metrics", _) => (405, "GET only\n".to_owned()),
        _ => (404, "metrics are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_bound_above_the_time() {
        let metrics = Metrics::default();
        metrics.call("status", "Ok", Duration::from_millis(2));
        metrics.call("status", "Ok", Duration::from_secs(100));
        let mut text = String::new();
        metrics.calls(&mut text);
        let labels = "rpc=\"status\",code=\"Ok\"";
        for line in [
            format!("rrun_cri_rpc_duration_seconds_bucket{{{labels},le=\"0.001\"}} 0"),
            format!("rrun_cri_rpc_duration_seconds_bucket{{{labels},le=\"0.003\"}} 1"),
            format!("rrun_cri_rpc_duration_seconds_bucket{{{labels},le=\"60\"}} 1"),
            format!("rrun_cri_rpc_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("rrun_cri_rpc_duration_seconds_count{{{labels}}} 2"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn the_process_is_told_of() {
        let mut text = String::new();
        process(&mut text);
        for name in [
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
        ] {
            let line = text
                .lines()
                .find(|l| l.starts_with(&format!("{name} ")))
                .unwrap();
            assert!(
                line.split(' ').nth(1).unwrap().parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
