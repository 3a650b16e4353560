//! What containers used lately: a point every twenty seconds, while containers run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rrun_cri_api::v1 as cri;
use serde::Serialize;

use super::cri::{Cri, Result};

/// Between two points: often enough for a curve, rare enough to cost nothing that can be measured.
const STEP: Duration = Duration::from_secs(20);
/// Points of a container: twenty minutes.
const POINTS: usize = 60;

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Seconds since 1970.
    pub at: i64,
    /// Thousandths of a CPU since the last point.
    pub cpu: u32,
    /// Bytes in use, without what the kernel could take back.
    pub memory: u64,
}

#[derive(Default)]
struct Curve {
    /// CPU time in nanoseconds, and when.
    last: Option<(u64, Instant)>,
    points: VecDeque<Point>,
}

/// The curves of all containers, by CRI id; cheap to clone.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<HashMap<String, Curve>>>);

impl History {
    /// The points of a container, the oldest first.
    pub fn of(&self, id: &str) -> Vec<Point> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(id)
            .map(|curve| curve.points.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Measures without end.
    pub async fn run(self, cri: Cri) {
        loop {
            tokio::time::sleep(STEP).await;
            if cri.is_there()
                && let Err(status) = self.measure(&cri).await
            {
                tracing::debug!("usage not measured: {}", status.message());
            }
        }
    }

    async fn measure(&self, cri: &Cri) -> Result<()> {
        let request = cri::ListContainerStatsRequest::default();
        let stats = cri.runtime().list_container_stats(request).await?;
        let now = Instant::now();
        let at = jiff::Timestamp::now().as_second();
        let read = stats.into_inner().stats.into_iter().filter_map(|stats| {
            let cpu = stats.cpu?.usage_core_nano_seconds?.value;
            let memory = stats.memory?.working_set_bytes?.value;
            Some((stats.attributes?.id, cpu, memory))
        });
        self.note(read.collect(), at, now);
        Ok(())
    }

    /// Notes a reading: id, CPU time in nanoseconds, memory in bytes. Curves of containers that are
    /// not in it stay for as long as a capsule may ask for them.
    fn note(&self, read: Vec<(String, u64, u64)>, at: i64, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, cpu, memory) in read {
            let curve = all.entry(id).or_default();
            if let Some((before, since)) = curve.last {
                let spent = u128::from(cpu.saturating_sub(before)) * 1000;
                let rate = spent / now.duration_since(since).as_nanos().max(1);
                curve.points.push_back(Point {
                    at,
                    cpu: u32::try_from(rate).unwrap_or(u32::MAX),
                    memory,
                });
            }
            curve.last = Some((cpu, now));
            if curve.points.len() > POINTS {
                curve.points.pop_front();
            }
        }
        let young = |curve: &Curve| {
            let last = curve.last.map(|(_, at)| now.duration_since(at));
            last.is_some_and(|age| age < STEP * 6)
        };
        all.retain(|_, curve| young(curve));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_rates_and_an_end() {
        let history = History::default();
        let begun = Instant::now();
        for n in 0..100_u64 {
            let now = begun + STEP * n as u32;
            let read = vec![("a".to_owned(), n * 2_000_000_000, n)];
            history.note(read, n as i64, now);
        }
        let points = history.of("a");
        assert_eq!(points.len(), POINTS);
        assert_eq!(
            points.last(),
            Some(&Point {
                at: 99,
                cpu: 100,
                memory: 99
            })
        );
        history.note(Vec::new(), 200, begun + STEP * 200);
        assert!(history.of("a").is_empty());
    }
}
