//! Standard output, and numbers as people read them.

use std::fmt::Display;
use std::io::Write;

use comfy_table::{Table, presets};

/// Prints a line. A reader that has gone (`| head`) has what it wanted: the program ends there.
pub fn say(line: impl Display) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        let gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        std::process::exit(i32::from(!gone));
    }
}

/// What another party wrote must not steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A table without lines, its columns two spaces apart.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    table.add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// `1.5 MiB`
#[expect(
    clippy::cast_precision_loss,
    reason = "one digit after the point is shown"
)]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// The first 12 digits of a digest.
pub fn short(digest: &rrun_images::Digest) -> String {
    digest.hex()[..12].to_owned()
}

/// `1g`, `512m`, `64k`, `1048576` in bytes.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower
        .strip_suffix("ib")
        .or(lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let (digits, shift) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 10),
        Some('m') => (&lower[..lower.len() - 1], 20),
        Some('g') => (&lower[..lower.len() - 1], 30),
        Some('t') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = digits
        .parse()
        .map_err(|_| "write bytes, or a number with k, m or g")?;
    let bytes = number.checked_mul(1 << shift).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_write() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(
            parse_bytes("0").is_err() && parse_bytes("x").is_err() && parse_bytes("-1m").is_err()
        );
    }
}
