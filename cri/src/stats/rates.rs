//! Processor time per second, which takes two looks: the kernel only counts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rrun_cri_api::v1;

/// Shorter than this, a rate is mostly noise: the one before it is told again.
const SHORTEST: i64 = 1_000_000_000;

/// What was counted last, by the id of a container or sandbox.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: i64,
    used: u64,
    rate: Option<u64>,
}

impl Rates {
    /// Fills in `usage_nano_cores` from what was counted when somebody asked before; the first time
    /// there is none.
    pub fn fill(&self, id: &str, usage: &mut v1::CpuUsage) {
        let Some(used) = usage.usage_core_nano_seconds else {
            return;
        };
        usage.usage_nano_cores = super::value(self.observe(id, usage.timestamp, used.value));
    }

    fn observe(&self, id: &str, at: i64, used: u64) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = samples.get(id).copied();
        let rate = match last {
            Some(last) if at - last.at < SHORTEST => return last.rate,
            Some(last) => rate(used.checked_sub(last.used), at - last.at),
            None => None,
        };
        samples.insert(id.to_owned(), Sample { at, used, rate });
        rate
    }

    /// Forgets what is removed.
    pub fn forget(&self, id: &str) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.remove(id);
    }
}

/// A count that went back is that of another cgroup.
fn rate(used: Option<u64>, nanos: i64) -> Option<u64> {
    let rate = u128::from(used?) * 1_000_000_000 / u128::try_from(nanos).ok()?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_rate_is_between_two_looks_that_are_a_second_apart() {
        let rates = Rates::default();
        assert_eq!(rates.observe("a", 10 * SECOND, 500), None);
        assert_eq!(rates.observe("a", 10 * SECOND + 1, 900), None);
        let half = 500 + 1_000_000_000;
        assert_eq!(rates.observe("a", 12 * SECOND, half), Some(500_000_000));
        assert_eq!(
            rates.observe("a", 12 * SECOND + 5, half + 9),
            Some(500_000_000)
        );
        assert_eq!(rates.observe("b", 12 * SECOND, half), None);
        // Made anew under the same id.
        assert_eq!(rates.observe("a", 14 * SECOND, 3), None);
        rates.forget("a");
        assert_eq!(rates.observe("a", 16 * SECOND, 4), None);
    }
}
