//! Sets of completion indexes as text: `1,3-5,7`.

use std::collections::BTreeSet;

/// Reads; `None` where it is not such a list, or one of more than a hundred thousand.
pub fn parse(text: &str) -> Option<BTreeSet<i32>> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (i32, i32) = (low.parse().ok()?, high.parse().ok()?);
        if low < 0 || high < low || high - low > 100_000 {
            return None;
        }
        all.extend(low..=high);
    }
    Some(all)
}

/// Writes, neighbours joined.
pub fn format(all: &BTreeSet<i32>) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for index in all {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *index => *end = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let text = parts.iter().map(|(low, high)| match high - low {
        0 => low.to_string(),
        1 => format!("{low},{high}"),
        _ => format!("{low}-{high}"),
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_indexes_are_read_and_written() {
        for text in ["", "0", "1,2", "1-3", "0,2-5,7,8"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
        for bad in ["a", "3-1", "-1", "1-", "0-9999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
