//! Block devices: v1's tables, and v2's io.stat in the same form.

use super::super::write::get;
use super::{Blkio, BlkioEntry};
use std::path::Path;

/// A field of [`Blkio`].
type Field = fn(&mut Blkio) -> &mut Vec<BlkioEntry>;

const BYTES: Field = |b| &mut b.io_service_bytes_recursive;
const COUNT: Field = |b| &mut b.io_serviced_recursive;

/// v1's tables in the order in which they are tried: BFQ with debugging, BFQ, CFQ,
/// throttling with and without children. The first whose first file has lines counts.
const TABLES: [&[(&str, Field)]; 5] = [
    &[
        ("blkio.bfq.sectors_recursive", |b| &mut b.sectors_recursive),
        ("blkio.bfq.io_service_time_recursive", |b| {
            &mut b.io_service_time_recursive
        }),
        ("blkio.bfq.io_wait_time_recursive", |b| {
            &mut b.io_wait_time_recursive
        }),
        ("blkio.bfq.io_merged_recursive", |b| {
            &mut b.io_merged_recursive
        }),
        ("blkio.bfq.io_queued_recursive", |b| {
            &mut b.io_queued_recursive
        }),
        ("blkio.bfq.time_recursive", |b| &mut b.io_time_recursive),
        ("blkio.bfq.io_serviced_recursive", COUNT),
        ("blkio.bfq.io_service_bytes_recursive", BYTES),
    ],
    &[
        ("blkio.bfq.io_serviced_recursive", COUNT),
        ("blkio.bfq.io_service_bytes_recursive", BYTES),
    ],
    &[
        ("blkio.sectors_recursive", |b| &mut b.sectors_recursive),
        ("blkio.io_service_time_recursive", |b| {
            &mut b.io_service_time_recursive
        }),
        ("blkio.io_wait_time_recursive", |b| {
            &mut b.io_wait_time_recursive
        }),
        ("blkio.io_merged_recursive", |b| &mut b.io_merged_recursive),
        ("blkio.io_queued_recursive", |b| &mut b.io_queued_recursive),
        ("blkio.time_recursive", |b| &mut b.io_time_recursive),
        ("blkio.io_serviced_recursive", COUNT),
        ("blkio.io_service_bytes_recursive", BYTES),
    ],
    &[
        ("blkio.throttle.io_serviced_recursive", COUNT),
        ("blkio.throttle.io_service_bytes_recursive", BYTES),
    ],
    &[
        ("blkio.throttle.io_serviced", COUNT),
        ("blkio.throttle.io_service_bytes", BYTES),
    ],
];

/// From a v1 directory.
pub fn legacy(dir: &Path) -> Blkio {
    let mut blkio = Blkio::default();
    for table in TABLES {
        let read = |file: &str| get(dir, file).map(|text| lines(&text)).unwrap_or_default();
        if read(table[0].0).is_empty() {
            continue;
        }
        for (file, field) in table {
            *field(&mut blkio) = read(file);
        }
        break;
    }
    blkio
}

/// `MAJOR:MINOR [OP] VALUE` lines; totals over devices are left out.
fn lines(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let (first, second) = (fields.next()?, fields.next());
            let (op, value) = second.map_or(("", first), |value| (first, value));
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

/// From v2's io.stat: `MAJOR:MINOR rbytes=1 wbytes=2 rios=3 wios=4 …`.
pub fn unified(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some((major, minor)) = fields.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (op, field): (_, Field) = match key {
                "rbytes" => ("Read", BYTES),
                "wbytes" => ("Write", BYTES),
                "rios" => ("Read", COUNT),
                "wios" => ("Write", COUNT),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            field(&mut blkio).push(BlkioEntry {
                major,
                minor,
                op: op.to_owned(),
                value,
            });
        }
    }
    blkio
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_lines_with_and_without_operation() {
        let found = lines("8:0 Read 10\n8:0 Total 10\nTotal 10\n259:70000 5\n");
        assert_eq!(found.len(), 3);
        assert_eq!(
            found[0],
            BlkioEntry {
                major: 8,
                minor: 0,
                op: "Read".into(),
                value: 10
            }
        );
        assert_eq!(
            found[2],
            BlkioEntry {
                major: 259,
                minor: 70_000,
                op: String::new(),
                value: 5
            }
        );
    }

    #[test]
    fn io_stat_becomes_the_two_tables() {
        let blkio = unified("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n");
        let values = |list: &[BlkioEntry]| list.iter().map(|e| e.value).collect::<Vec<_>>();
        assert_eq!(values(&blkio.io_service_bytes_recursive), [1, 2]);
        assert_eq!(values(&blkio.io_serviced_recursive), [3, 4]);
    }
}
