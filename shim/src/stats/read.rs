//! Reading the files of a cgroup; what is not there is absent.

use std::fs;
use std::path::Path;

/// A file's text.
pub fn text(dir: &Path, file: &str) -> Option<String> {
    fs::read_to_string(dir.join(file)).ok()
}

/// A file of one number; `max` is the greatest.
pub fn number(dir: &Path, file: &str) -> Option<u64> {
    match text(dir, file)?.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// A file of lines of a key and a number.
pub struct Keyed(String);

impl Keyed {
    /// Reads it; one that is not there has no keys.
    pub fn read(dir: &Path, file: &str) -> Self {
        Self(text(dir, file).unwrap_or_default())
    }

    /// The number of a key.
    pub fn get(&self, key: &str) -> Option<u64> {
        crate::cgroup::keyed(&self.0, key)
    }

    /// The number of a key, or 0.
    pub fn or_zero(&self, key: &str) -> u64 {
        self.get(key).unwrap_or(0)
    }
}

/// One line of pressure stall information.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Per cent over 10, 60 and 300 seconds.
    pub averages: [f64; 3],
    /// Microseconds.
    pub total: u64,
}

/// `some` and `full` of a pressure file.
pub fn pressure(dir: &Path, file: &str) -> Option<(Stall, Stall)> {
    let text = text(dir, file)?;
    Some((
        stall(&text, "some").unwrap_or_default(),
        stall(&text, "full").unwrap_or_default(),
    ))
}

fn stall(text: &str, kind: &str) -> Option<Stall> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let mut values = line
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|p| p.1);
    let mut average = || values.next()?.parse().ok();
    let averages = [average()?, average()?, average()?];
    Some(Stall {
        averages,
        total: values.next()?.parse().ok()?,
    })
}

/// Huge page sizes that a cgroup counts, by names like `hugetlb.2MB.<rest>`.
pub fn hugetlb_sizes(dir: &Path, rest: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let size = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let size = name
            .strip_prefix("hugetlb.")?
            .strip_suffix(rest)?
            .strip_suffix('.')?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let mut sizes: Vec<_> = entries.flatten().filter_map(size).collect();
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_lines() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 \
                    avg300=0.00 total=5\n";
        let some = stall(text, "some").unwrap();
        assert_eq!((some.averages, some.total), ([1.5, 0.25, 0.0], 77));
        assert_eq!(stall(text, "full").map(|s| s.total), Some(5));
        assert_eq!(stall("", "full"), None);
    }
}
