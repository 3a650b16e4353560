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

/// RFC 3339 in UTC with nine digits of nanoseconds, as Kubernetes logs have it.
pub fn rfc3339(nanos: u64) -> String {
    let (seconds, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// Year, month and day of a number of days since 1970, by eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_leap_years_and_ends_of_years() {
        let at = |seconds: u64| rfc3339(seconds * 1_000_000_000 + 5);
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(4_102_444_799), "2099-12-31T23:59:59.000000005Z");
    }

    #[test]
    fn nanoseconds_come_back_as_they_were() {
        let at = 1_790_000_000_123_456_789;
        assert_eq!(nanos(&from_nanos(at)), at);
    }
}
