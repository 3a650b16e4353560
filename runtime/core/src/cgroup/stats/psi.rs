//! Pressure stall information (4.20): how long tasks waited for a resource.

use super::super::write::get;
use serde::Serialize;
use std::path::Path;

/// One line of a pressure file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Pressure {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds in all.
    pub total: u64,
}

/// A pressure file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Psi {
    /// At least one task waited.
    #[serde(skip_serializing_if = "super::is_default")]
    pub some: Pressure,
    /// All tasks waited.
    #[serde(skip_serializing_if = "super::is_default")]
    pub full: Pressure,
}

/// Reads one; `None` when the kernel does not keep it (no PSI, or it is turned off).
pub fn read(dir: &Path, file: &str) -> Option<Psi> {
    get(dir, file).ok().map(|text| parse(&text))
}

fn parse(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let pressure = match fields.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => pressure.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => pressure.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => pressure.avg300 = value.parse().unwrap_or(0.0),
                "total" => pressure.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    psi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines() {
        let psi = parse(
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
        );
        assert_eq!(
            psi.some,
            Pressure {
                avg10: 1.5,
                avg60: 0.25,
                avg300: 0.0,
                total: 77
            }
        );
        assert_eq!(psi.full.total, 9);
    }
}
