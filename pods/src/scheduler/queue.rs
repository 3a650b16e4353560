//! Pods that wait for a node: ready ones by priority and age, refused ones with a back-off.
//!
//! ```text
//! add ──▶ ready ──pop──▶ (decided)
//!            ▲             │ refused
//!            │ changed     ▼
//!            └──────── waiting (1 s, doubled up to 10 s; sooner only after a change in the world)
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(10);
/// A refused pod is tried again after this even when nothing is known to have changed
/// (kube-scheduler's `podMaxInUnschedulablePodsDuration`).
const LONGEST_REST: Duration = Duration::from_mins(5);

#[derive(Debug)]
struct Entry {
    priority: i32,
    /// Order of arrival.
    sequence: u64,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Backing off; ready at the instant.
    BackOff(Instant),
    /// Waits for its volumes, of which a change tells; time alone makes it ready at the instant.
    Held(Instant),
    /// Refused; a change in the world makes it back off until the first instant, and time alone
    /// makes it ready at the second.
    Refused(Instant, Instant),
}

/// The queue, keyed by `namespace/name`.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<String, Entry>,
    sequence: u64,
}

impl Queue {
    /// Adds a pod, or updates its priority; a pod that is known keeps its back-off.
    pub fn add(&mut self, key: String, priority: i32) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.entries
            .entry(key)
            .and_modify(|entry| entry.priority = priority)
            .or_insert(Entry {
                priority,
                sequence,
                attempts: 0,
                state: State::Ready,
            });
    }

    /// Forgets a pod that is bound or gone.
    pub fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// The pod to decide on now: the highest priority, then the oldest.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        for entry in self.entries.values_mut() {
            let due = match entry.state {
                State::Ready => continue,
                State::BackOff(at) | State::Refused(_, at) | State::Held(at) => at,
            };
            if due <= now {
                entry.state = State::Ready;
            }
        }
        self.entries
            .iter()
            .filter(|(_, entry)| entry.state == State::Ready)
            .min_by_key(|(_, entry)| (-i64::from(entry.priority), entry.sequence))
            .map(|(key, _)| key.clone())
    }

    /// No node would have the pod.
    pub fn refused(&mut self, key: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.attempts += 1;
            let wait = FIRST * 2_u32.pow((entry.attempts - 1).min(10));
            entry.state = State::Refused(now + wait.min(LAST), now + LONGEST_REST);
        }
    }

    /// The pod's volumes are being made.
    pub fn hold(&mut self, key: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.state = State::Held(now + LONGEST_REST);
        }
    }

    /// A claim changed: whoever waits for volumes looks again at once.
    pub fn claim_changed(&mut self) {
        for entry in self.entries.values_mut() {
            if let State::Held(_) = entry.state {
                entry.state = State::Ready;
            }
        }
        self.world_changed();
    }

    /// Something changed that may let refused pods fit (a pod ended, a node changed).
    pub fn world_changed(&mut self) {
        for entry in self.entries.values_mut() {
            if let State::Refused(at, _) = entry.state {
                entry.state = State::BackOff(at);
            }
        }
    }

    /// When [`next`](Self::next) may have something to say without being told.
    pub fn next_wake(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| match entry.state {
                State::Ready => None,
                State::BackOff(at) | State::Refused(_, at) | State::Held(at) => Some(at),
            })
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_then_age() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add("a/old".into(), 0);
        queue.add("a/new".into(), 0);
        queue.add("a/high".into(), 10);
        for expected in ["a/high", "a/old", "a/new"] {
            let key = queue.next(now).unwrap();
            assert_eq!(key, expected);
            queue.remove(&key);
        }
        assert_eq!(queue.next(now), None);
    }

    #[test]
    fn a_refused_pod_waits_for_a_change_and_its_back_off() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add("a/p".into(), 0);
        queue.refused("a/p", start);
        assert_eq!(queue.next(start + LAST), None);
        queue.world_changed();
        assert_eq!(queue.next(start + Duration::from_millis(900)), None);
        assert_eq!(queue.next(start + FIRST).as_deref(), Some("a/p"));
        for _ in 0..9 {
            queue.refused("a/p", start);
        }
        queue.world_changed();
        assert_eq!(queue.next_wake(), Some(start + LAST));
    }
}
