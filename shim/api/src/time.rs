//! Points in time as they travel.

use crate::pb::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A protobuf timestamp of a clock's value.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let (seconds, nanos) = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos() as i32),
        Err(_) => (0, 0),
    };
    Timestamp { seconds, nanos }
}

/// A protobuf timestamp of nanoseconds since the epoch.
pub fn from_nanos(nanos: u64) -> Timestamp {
    timestamp(UNIX_EPOCH + Duration::from_nanos(nanos))
}

/// Nanoseconds since the epoch now; 0 on a clock set before 1970.
pub fn now_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

/// Nanoseconds since the epoch of a protobuf timestamp; what is before 1970 is 0.
pub fn nanos(at: &Timestamp) -> u64 {
    let seconds = u64::try_from(at.seconds).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(at.nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_come_back_as_they_were() {
        let at = 1_790_000_000_123_456_789;
        assert_eq!(nanos(&from_nanos(at)), at);
    }
}
