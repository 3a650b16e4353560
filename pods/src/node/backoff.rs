//! The kubelet's back-off: the first retry at once, then after 10 s, 20 s … 300 s; forgotten after
//! ten quiet minutes.

use jiff::{SignedDuration, Timestamp};

const FIRST: i64 = 10;
const LAST: i64 = 300;
/// How far one look at the clock may be behind another.
const SKEW: SignedDuration = SignedDuration::from_secs(2);

/// How long a thing that keeps failing is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    /// Seconds to wait after the last failure; none before the second failure.
    wait: i64,
    failed: Option<Timestamp>,
}

impl BackOff {
    /// When the next try may be, given that the thing failed at `failed`; `None` where it may be
    /// now. A failure that is yet to come was before the clock was set back: who knows when.
    pub fn until(&self, failed: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let wait = SignedDuration::from_secs(self.wait);
        let at = failed.checked_add(wait).ok()?;
        (at > now && failed.duration_since(now) < SKEW).then_some(at)
    }

    /// Seconds of the current wait.
    pub fn seconds(&self) -> i64 {
        self.wait
    }

    /// A new try begins after a failure at `failed`.
    pub fn next(&mut self, failed: Timestamp) {
        let quiet = self
            .failed
            .is_some_and(|last| failed.as_second() - last.as_second() > 2 * LAST);
        self.wait = if self.wait == 0 || quiet {
            FIRST
        } else {
            (self.wait * 2).min(LAST)
        };
        self.failed = Some(failed);
    }

    /// A thing that failed `count` times before this process began.
    pub fn resumed(count: u32, failed: Timestamp) -> Self {
        if count == 0 {
            return Self::default();
        }
        let wait = FIRST.saturating_mul(1 << (count - 1).min(10)).min(LAST);
        Self {
            wait,
            failed: Some(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_at_once_then_it_doubles() {
        let mut back_off = BackOff::default();
        let at: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(back_off.until(at, at), None);
        let mut waits = vec![];
        for _ in 0..7 {
            back_off.next(at);
            waits.push(back_off.seconds());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        let second = |n| at + SignedDuration::from_secs(n);
        assert_eq!(back_off.until(at, second(299)), Some(second(300)));
        assert_eq!(back_off.until(at, second(300)), None);
        assert_eq!(back_off.until(at, second(-1)), Some(second(300)));
        assert_eq!(
            back_off.until(at, second(-86_400)),
            None,
            "a clock set back"
        );
        let later: Timestamp = "2026-11-21T10:10:01Z".parse().unwrap();
        back_off.next(later);
        assert_eq!(back_off.seconds(), 10);
    }
}
