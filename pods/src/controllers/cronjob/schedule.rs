//! Schedules of cron: five fields, names, ranges, steps, and the words with an `@`.
//!
//! In a time zone as it is lived: a time that the clock skips does not come; of one that it shows
//! twice the first counts, unless the hour is `*`, which means every hour that passes.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At these times.
    Fields(Fields),
    /// `@every 1h30m`: seconds between two times.
    Every(i64),
}

/// Bits of each field: bit 5 of `minutes` is minute 5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month, the day of the week, the hour are `*`.
    any_day: bool,
    any_weekday: bool,
    any_hour: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// How many days are looked through: a leap day comes within eight years.
const HORIZON: usize = 366 * 9;

impl std::str::FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(word) = text.strip_prefix('@') {
            return word_of(word);
        }
        let all: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = all.as_slice() else {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{}]",
                all.len(),
                all.join(" ")
            ));
        };
        let star = |f: &str| f.starts_with('*') || f.starts_with('?');
        let mut weekday_bits = field(weekdays, 0, 7, &DAYS, 0)?;
        // Sunday is 0 and 7.
        if weekday_bits & 1 << 7 != 0 {
            weekday_bits |= 1;
        }
        Ok(Self::Fields(Fields {
            minutes: field(minutes, 0, 59, &[], 0)?,
            hours: field(hours, 0, 23, &[], 0)?,
            days: field(days, 1, 31, &[], 0)?,
            months: field(months, 1, 12, &MONTHS, 1)?,
            weekdays: weekday_bits,
            any_day: star(days),
            any_weekday: star(weekdays),
            any_hour: star(hours),
        }))
    }
}

fn word_of(word: &str) -> Result<Schedule, String> {
    let line = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        other => {
            let period = other.strip_prefix("every ");
            let seconds = period.and_then(seconds).filter(|s| *s > 0);
            return seconds
                .map(Schedule::Every)
                .ok_or_else(|| format!("unrecognized descriptor: @{other}"));
        }
    };
    line.parse()
}

/// `1h30m10s`.
fn seconds(text: &str) -> Option<i64> {
    let (mut total, mut number) = (0_i64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let factor = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(factor)?)?;
        number.clear();
    }
    number.is_empty().then_some(total)
}

fn field(text: &str, low: u32, high: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        bits |= part_bits(part, low, high, names, first)?;
    }
    Ok(bits)
}

fn part_bits(part: &str, low: u32, high: u32, names: &[&str], first: u32) -> Result<u64, String> {
    let number = |text: &str| -> Result<u32, String> {
        let lower = text.to_lowercase();
        if let Some(at) = names.iter().position(|n| *n == lower) {
            return Ok(at as u32 + first);
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}: {part}"))
    };
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(number(step)?)),
        None => (part, None),
    };
    let (start, mut end) = if range == "*" || range == "?" {
        (low, high)
    } else if let Some((a, b)) = range.split_once('-') {
        (number(a)?, number(b)?)
    } else {
        let one = number(range)?;
        (one, one)
    };
    // `5/15` is from 5 on.
    if step.is_some() && !range.contains(['-', '*', '?']) {
        end = high;
    }
    if start < low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({low}): {part}"
        ));
    }
    if end > high {
        return Err(format!(
            "end of range ({end}) above maximum ({high}): {part}"
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {part}"
        ));
    }
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok((start..=end)
        .step_by(step as usize)
        .fold(0, |bits, n| bits | 1 << n))
}

/// Where the machine keeps the zones of the IANA.
const ZONES: &str = "/usr/share/zoneinfo";
/// The machine's own zone.
const LOCAL: &str = "/etc/localtime";

/// The time zone of a name of the IANA; the machine's own where none is given.
pub fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let name = match name {
        None => return Ok(read("local", LOCAL).unwrap_or(TimeZone::UTC)),
        Some("UTC" | "Etc/UTC") => return Ok(TimeZone::UTC),
        Some(name) => name,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-_/".contains(c);
    if name.is_empty() || name.starts_with('/') || !name.chars().all(plain) {
        return Err(format!("unknown time zone {name}"));
    }
    read(name, &format!("{ZONES}/{name}"))
}

fn read(name: &str, path: &str) -> Result<TimeZone, String> {
    let data = std::fs::read(path)
        .map_err(|e| format!("unknown time zone {name}: {path}: {e}: is tzdata installed?"))?;
    TimeZone::tzif(name, &data).map_err(|e| format!("unknown time zone {name}: {path}: {e}"))
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| n < 64 && bits & 1 << n != 0)
}

impl Fields {
    fn on(&self, day: Date) -> bool {
        let weekday = match day.weekday() {
            Weekday::Sunday => 0,
            other => other.to_monday_one_offset(),
        };
        let (by_day, by_weekday) = (has(self.days, day.day()), has(self.weekdays, weekday));
        // Where both are given, either will do.
        let day_fits = if self.any_day || self.any_weekday {
            by_day && by_weekday
        } else {
            by_day || by_weekday
        };
        has(self.months, day.month()) && day_fits
    }

    fn after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut day = zone.to_datetime(after).date();
        for _ in 0..HORIZON {
            if self.on(day) {
                let mut times = self.times(day, zone);
                times.sort_unstable();
                if let Some(found) = times.into_iter().find(|t| *t > after) {
                    return Some(found);
                }
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    /// The times of a day that comes.
    fn times(&self, day: Date, zone: &TimeZone) -> Vec<Timestamp> {
        let mut all = Vec::new();
        for hour in (0..24).filter(|h| has(self.hours, *h)) {
            for minute in (0..60).filter(|m| has(self.minutes, *m)) {
                all.extend(self.instants(day.at(hour, minute, 0, 0), zone));
            }
        }
        all
    }

    fn instants(&self, at: DateTime, zone: &TimeZone) -> Vec<Timestamp> {
        let ambiguous = zone.to_ambiguous_timestamp(at);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { .. } => Vec::new(),
            AmbiguousOffset::Fold { .. } if self.any_hour => {
                let twice = [ambiguous.earlier(), ambiguous.later()];
                twice.into_iter().flatten().collect()
            }
            _ => ambiguous.earlier().into_iter().collect(),
        }
    }
}

impl Schedule {
    /// The first time after `after`; `None` where it never comes.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Fields(fields) => fields.after(after, zone),
            Self::Every(seconds) => after.checked_add(SignedDuration::from_secs(*seconds)).ok(),
        }
    }

    /// The last time in `(after, now]`, and whether more than one came.
    pub fn latest(
        &self,
        after: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<(Timestamp, bool)> {
        let first = self.next(after, zone).filter(|t| *t <= now)?;
        let second = self.next(first, zone)?;
        if second > now {
            return Some((first, false));
        }
        // Looking back from now in growing steps costs little however long nobody looked.
        let span = (second.as_second() - first.as_second()).max(1);
        let mut back = span;
        loop {
            let from = Timestamp::from_second(now.as_second() - back)
                .unwrap_or(first)
                .max(first);
            let mut found = self.next(from, zone).filter(|t| *t <= now);
            if let Some(mut last) = found.take() {
                while let Some(next) = self.next(last, zone).filter(|t| *t <= now) {
                    last = next;
                }
                return Some((last, true));
            }
            if from == first {
                return Some((first, false));
            }
            back = back.saturating_mul(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next(line: &str, after: &str, zone_name: &str) -> String {
        let schedule: Schedule = line.parse().unwrap();
        schedule
            .next(at(after), &zone(Some(zone_name)).unwrap())
            .unwrap()
            .to_string()
    }

    #[test]
    fn schedules_come_when_they_say() {
        for (line, after, want) in [
            (
                "*/15 * * * *",
                "2026-11-21T10:07:30Z",
                "2026-11-21T10:15:00Z",
            ),
            ("0 0 * * *", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            (
                "30 4 1,15 * 5",
                "2026-11-21T00:00:00Z",
                "2026-11-27T04:30:00Z",
            ),
            (
                "0 12 29 feb *",
                "2026-11-21T00:00:00Z",
                "2028-02-29T12:00:00Z",
            ),
            (
                "5/20 9-17/4 * * mon-FRI",
                "2026-11-20T17:50:00Z",
                "2026-11-23T09:05:00Z",
            ),
            ("@hourly", "2026-11-21T10:59:59Z", "2026-11-21T11:00:00Z"),
            ("0 0 * * 7", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z"),
            (
                "@every 1h30m",
                "2026-11-21T10:00:00Z",
                "2026-11-21T11:30:00Z",
            ),
        ] {
            assert_eq!(next(line, after, "UTC"), want, "{line}");
        }
        let never: Schedule = "0 0 31 2 *".parse().unwrap();
        assert_eq!(never.next(at("2026-11-21T00:00:00Z"), &TimeZone::UTC), None);
    }

    #[test]
    fn wrong_schedules_say_what_is_wrong() {
        for (line, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("a * * * *", "failed to parse int from a: a"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(line.parse::<Schedule>().unwrap_err(), why);
        }
    }

    #[test]
    fn summer_time_skips_and_repeats() {
        rrun_tests::require!(rrun_tests::Need::Path("/usr/share/zoneinfo/Europe/Berlin"));
        // Berlin: 2026-03-29 02:00 is 03:00; 2026-10-25 03:00 is 02:00 again.
        let berlin = "Europe/Berlin";
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", berlin),
            "2026-03-30T00:30:00Z"
        );
        assert_eq!(
            next("30 2 * * *", "2026-10-25T00:29:00Z", berlin),
            "2026-10-25T00:30:00Z"
        );
        assert_eq!(
            next("30 2 * * *", "2026-10-25T00:30:00Z", berlin),
            "2026-10-26T01:30:00Z"
        );
        assert_eq!(
            next("30 * * * *", "2026-10-25T00:30:00Z", berlin),
            "2026-10-25T01:30:00Z"
        );
        assert_eq!(
            next("0 9 * * *", "2026-11-21T09:00:00Z", "America/New_York"),
            "2026-11-21T14:00:00Z"
        );
        assert!(zone(Some("Nowhere/At_All")).is_err());
    }

    #[test]
    fn the_last_missed_time_is_found() {
        let schedule: Schedule = "0 * * * *".parse().unwrap();
        let latest = |from: &str, to: &str| schedule.latest(at(from), at(to), &TimeZone::UTC);
        assert_eq!(latest("2026-11-21T10:00:00Z", "2026-11-21T10:59:00Z"), None);
        assert_eq!(
            latest("2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"),
            Some((at("2026-11-21T11:00:00Z"), false))
        );
        assert_eq!(
            latest("2020-01-01T00:00:00Z", "2026-11-21T11:10:00Z"),
            Some((at("2026-11-21T11:00:00Z"), true))
        );
    }
}
