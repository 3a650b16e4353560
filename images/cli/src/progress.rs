//! Progress of a pull or push: bars on a terminal, lines or JSON otherwise.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rrun_images::{Digest, Progress, ProgressSink};
use serde_json::json;

use crate::text::{bytes, say, short};

/// What was asked for on the command line.
#[derive(Clone, Copy, clap::Args)]
pub struct ProgressArgs {
    /// Say nothing but the result
    #[arg(long, short)]
    quiet: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

impl ProgressArgs {
    /// The sink that fits the flags and standard error.
    pub fn sink(self, verb: &'static str) -> Arc<dyn ProgressSink> {
        if self.quiet {
            Arc::new(())
        } else if self.json {
            Arc::new(Json::default())
        } else if std::io::stderr().is_terminal() {
            Arc::new(Bars::new())
        } else {
            Arc::new(Lines {
                verb,
                sizes: Mutex::default(),
            })
        }
    }

    /// Whether only the result is wanted.
    pub fn silent(self) -> bool {
        self.quiet
    }

    /// Whether JSON is wanted.
    pub fn json(self) -> bool {
        self.json
    }

    /// Prints the result.
    pub fn result(self, key: &str, value: &Digest) {
        if self.json {
            say(json!({ key: value }));
        } else {
            say(value);
        }
    }
}

/// A bar for each layer that moves.
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            bars: Mutex::default(),
        }
    }

    fn add(&self, layers: Vec<(Digest, u64)>) {
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {binary_bytes:>10}/{binary_total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4} {msg}",
        );
        let style = style
            .expect("the template is a constant that parses")
            .progress_chars("━╸─");
        let Ok(mut bars) = self.bars.lock() else {
            return;
        };
        for (layer, size) in layers {
            let bar = self
                .all
                .add(ProgressBar::new(size).with_style(style.clone()));
            bar.set_prefix(short(&layer));
            bars.insert(layer, bar);
        }
    }
}

impl ProgressSink for Bars {
    fn progress(&self, step: Progress) {
        if let Progress::Resolved { layers, .. } = step {
            return self.add(layers);
        }
        let Ok(bars) = self.bars.lock() else { return };
        match step {
            Progress::Bytes { layer, count } => {
                bars.get(&layer).inspect(|bar| bar.inc(count));
            }
            Progress::Reused { layer, count } => {
                bars.get(&layer).inspect(|bar| {
                    // What was not fetched is no part of the rate.
                    bar.set_length(bar.length().unwrap_or(count).saturating_sub(count));
                });
            }
            Progress::Retry { layer, why } => {
                bars.get(&layer)
                    .inspect(|bar| bar.set_message(format!("again: {why}")));
            }
            Progress::Done { layer, existed } => {
                bars.get(&layer)
                    .inspect(|bar| bar.finish_with_message(if existed { "there" } else { "done" }));
            }
            _ => {}
        }
    }
}

/// A line where something begins or ends.
struct Lines {
    verb: &'static str,
    sizes: Mutex<HashMap<Digest, u64>>,
}

impl ProgressSink for Lines {
    fn progress(&self, step: Progress) {
        match step {
            Progress::Resolved {
                manifest, layers, ..
            } => {
                let total = layers.iter().map(|(_, size)| size).sum();
                let count = layers.len();
                eprintln!(
                    "{} {}: {count} layers, {}",
                    self.verb,
                    short(&manifest),
                    bytes(total)
                );
                if let Ok(mut sizes) = self.sizes.lock() {
                    sizes.extend(layers);
                }
            }
            Progress::Retry { layer, why } => eprintln!("layer {}: again: {why}", short(&layer)),
            Progress::Reused { layer, count } => {
                eprintln!("layer {}: {} were here", short(&layer), bytes(count));
            }
            Progress::Done { layer, existed } => {
                let size = self
                    .sizes
                    .lock()
                    .ok()
                    .and_then(|sizes| sizes.get(&layer).copied());
                let Some(size) = size else { return };
                let state = if existed { "is there" } else { "done" };
                eprintln!("layer {}: {state}, {}", short(&layer), bytes(size));
            }
            _ => {}
        }
    }
}

/// Every 256 KiB at most, so that a reader is not flooded.
#[derive(Default)]
struct Json {
    waiting: Mutex<HashMap<Digest, u64>>,
}

const REPORT_BYTES: u64 = 256 << 10;

impl Json {
    fn take(&self, layer: &Digest, count: u64, least: u64) -> Option<u64> {
        let mut waiting = self.waiting.lock().ok()?;
        let sum = waiting.entry(layer.clone()).or_default();
        *sum += count;
        (*sum >= least && *sum > 0).then(|| std::mem::take(sum))
    }
}

impl ProgressSink for Json {
    fn progress(&self, step: Progress) {
        let line = match step {
            Progress::Resolved {
                manifest,
                id,
                layers,
            } => {
                let layers: Vec<_> = layers
                    .iter()
                    .map(|(digest, size)| json!({"digest": digest, "size": size}))
                    .collect();
                json!({"event": "resolved", "manifest": manifest, "id": id, "layers": layers})
            }
            Progress::Bytes { layer, count } => {
                let Some(sum) = self.take(&layer, count, REPORT_BYTES) else {
                    return;
                };
                json!({"event": "bytes", "layer": layer, "count": sum})
            }
            Progress::Retry { layer, why } => json!({"event": "retry", "layer": layer, "why": why}),
            Progress::Reused { layer, count } => {
                json!({"event": "reused", "layer": layer, "count": count})
            }
            Progress::Done { layer, existed } => {
                if let Some(sum) = self.take(&layer, 0, 0) {
                    say(json!({"event": "bytes", "layer": layer, "count": sum}));
                }
                json!({"event": "done", "layer": layer, "existed": existed})
            }
            _ => return,
        };
        say(line);
    }
}
