//! A queue of keys: deduplicated, one in flight per key, delayed, backed off after failures.
//!
//! ```text
//! add ──▶ ready ──take──▶ in flight ──done──▶ (gone, or ready again where it was added meanwhile)
//!           ▲                 │ failed / again after
//!           └──── later ◀─────┘
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub struct Queue<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    in_flight: HashSet<K>,
    later: BTreeMap<(Instant, u64), K>,
    failures: HashMap<K, u32>,
    sequence: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            in_flight: HashSet::new(),
            later: BTreeMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Wants `key` looked at; nothing changes where it waits already.
    pub fn add(&mut self, key: K) {
        if self.queued.insert(key.clone()) && !self.in_flight.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Wants `key` looked at once `at` has come.
    pub fn add_at(&mut self, key: K, at: Instant) {
        self.sequence += 1;
        self.later.insert((at, self.sequence), key);
    }

    /// The next key to look at, which is in flight until [`done`](Self::done) or
    /// [`failed`](Self::failed).
    pub fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(entry) = self.later.first_entry().filter(|e| e.key().0 <= now) {
            let key = entry.remove();
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.in_flight.insert(key.clone());
        Some(key)
    }

    /// `key` was looked at with success.
    pub fn done(&mut self, key: &K) {
        self.failures.remove(key);
        self.land(key);
    }

    /// `key` could not be brought where it should be; it comes again after a back-off, which is
    /// returned.
    pub fn failed(&mut self, key: &K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let wait = FIRST_RETRY
            .saturating_mul(2_u32.saturating_pow((*failures).min(20)))
            .min(LAST_RETRY);
        *failures += 1;
        self.land(key);
        self.add_at(key.clone(), now + wait);
        wait
    }

    fn land(&mut self, key: &K) {
        self.in_flight.remove(key);
        if self.queued.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// When [`take`](Self::take) has something to give: at once, at an instant, or not by itself.
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        if !self.ready.is_empty() {
            return Some(now);
        }
        self.later.keys().next().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_flight_once_and_comes_again_when_added_meanwhile() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"));
        queue.add("a");
        assert_eq!(queue.take(now), None);
        queue.done(&"a");
        assert_eq!(queue.take(now), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn failures_back_off_and_success_forgets_them() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..20 {
            let key = queue.take(now + LAST_RETRY).unwrap();
            waits.push(queue.failed(&key, now));
        }
        assert_eq!(waits[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(waits[19], LAST_RETRY);
        let key = queue.take(now + LAST_RETRY).unwrap();
        queue.done(&key);
        queue.add("a");
        let key = queue.take(now).unwrap();
        assert_eq!(queue.failed(&key, now), FIRST_RETRY);
    }
}
