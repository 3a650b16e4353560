//! Memory that a process at rest can do without.

use std::fs;

/// Gives back what a program only needed while it was busy: free heap, and the mapped pages of its
/// own code and constants, which come back from the page cache when they are next touched.
pub fn rest() {
    // SAFETY: glibc's malloc_trim takes its own locks and frees nothing that is in use.
    unsafe { libc::malloc_trim(0) };
    let Ok(maps) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in clean_file_mappings(&maps) {
        // SAFETY: the mapping is of a file, not writable, and has no page that differs from the
        // file (Anonymous is 0), so every page dropped is read again as it was; a program that
        // runs cannot be written to (ETXTBSY). Nothing else unmaps or maps at this address, as
        // the caller has one thread.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Address and length of each mapping of a file that is not writable and has no private page.
fn clean_file_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::parse(line) {
            current = Some(mapping);
        } else if let Some(kib) = line.strip_prefix("Anonymous:") {
            let clean = kib.trim() == "0 kB";
            found.extend(
                current
                    .take()
                    .filter(|m| m.is_constant_file && clean)
                    .map(|m| m.range),
            );
        }
    }
    found
}

/// The header of a mapping in smaps.
struct Mapping {
    /// Address and length.
    range: (usize, usize),
    is_constant_file: bool,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let permissions = fields.next()?;
        let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
        Some(Self {
            range: (start, end.saturating_sub(start)),
            is_constant_file: is_file && permissions.starts_with('r') && !permissions.contains('w'),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_read_only_files_are_dropped() {
        let smaps = "\
1000-3000 r-xp 00000000 08:01 7    /bin/x\nSize: 8 kB\nAnonymous:             0 kB\n\
3000-4000 r--p 00002000 08:01 7    /bin/x\nAnonymous:             4 kB\n\
4000-5000 rw-p 00003000 08:01 7    /bin/x\nAnonymous:             0 kB\n\
5000-6000 r--p 00000000 00:00 0    [vvar]\nAnonymous:             0 kB\n\
6000-7000 r--p 00000000 00:00 0\nAnonymous:             0 kB\n";
        assert_eq!(clean_file_mappings(smaps), [(0x1000, 0x2000)]);
    }

    #[test]
    fn the_program_goes_on_after_a_rest() {
        let text: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        rest();
        assert_eq!(text.concat().len(), 190);
    }
}
