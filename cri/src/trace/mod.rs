//! OpenTelemetry traces: a layer of `tracing` makes spans of calls and of their steps, a task sends
//! them to a collector by OTLP over gRPC. Neither exists where no endpoint is configured.
//!
//! The protocol's one message and one method do not need the OpenTelemetry crates (25 more in the
//! tree); gRPC is the daemon's own.

mod context;
mod export;
mod layer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

pub use context::parent;
pub use export::{Endpoint, Exporter};
pub use layer::Spans;

use rrun_cri_api::otlp::Span;

/// Spans that wait for the collector. More than these are dropped, and counted.
const WAITING: usize = 4096;

/// Of a million calls that come without a trace of their own, so many are traced.
pub const MILLION: u32 = 1_000_000;

/// Figures of the exporter.
#[derive(Debug, Default)]
pub struct Counts {
    /// Spans that a collector took.
    pub sent: AtomicU64,
    /// Spans that nobody took: the collector was away, slow, or refused them.
    pub dropped: AtomicU64,
}

impl Counts {
    fn dropped(&self, spans: usize) {
        self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
    }
}

/// The two ends: what makes spans, and what sends them.
pub fn pair(endpoint: Endpoint, per_million: u32) -> anyhow::Result<(Spans, Exporter)> {
    let (sender, receiver) = mpsc::channel::<Span>(WAITING);
    let counts = Arc::new(Counts::default());
    let spans = Spans::new(sender, counts.clone(), per_million)?;
    Ok((spans, Exporter::new(endpoint, receiver, counts)))
}
