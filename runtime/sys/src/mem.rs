//! Memory that a process at rest can do without.

use std::fs;

/// Gives back what a program of one thread only needed while it was busy: free heap, and the mapped
/// pages of code and constants, which come back from the page cache when they are next touched.
pub fn rest() {
    trim();
    drop_pages(|_| true);
}

/// As [`rest`], for a program of many threads: of files, only the program's own are let go, which
/// nothing unmaps while it runs.
pub fn rest_of_threads() {
    trim();
    if let Ok(program) = fs::read_link("/proc/self/exe") {
        let program = program.to_string_lossy().into_owned();
        drop_pages(|path| path == program);
    }
}

/// At most so many heaps (glibc's arenas), which are never given back whole; without a limit there
/// are eight for each processor. To be called before there is a second thread. musl has one heap.
pub fn limit_heaps(count: i32) {
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a number that malloc reads when a thread first allocates; it has no
    // memory-safety precondition.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count)
    };
}

/// musl gives back what is free as it goes.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's malloc_trim takes its own locks and frees nothing that is in use.
    unsafe {
        libc::malloc_trim(0)
    };
}

fn drop_pages(of: impl Fn(&str) -> bool) {
    let Ok(maps) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in clean_file_mappings(&maps, of) {
        // SAFETY: the mapping is of a file, not writable, and has no page that differs from the
        // file (Anonymous is 0), so every page dropped is read again as it was; a program that
        // runs cannot be written to (ETXTBSY). Nothing else unmaps or maps at this address: the
        // caller has one thread, or the mapping is the program's own, which stays.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Address and length of each mapping of such a file that is not writable and has no private page.
fn clean_file_mappings(smaps: &str, of: impl Fn(&str) -> bool) -> Vec<(usize, usize)> {
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
                    .filter(|m| m.is_constant && clean && m.file.is_some_and(&of))
                    .map(|m| m.range),
            );
        }
    }
    found
}

/// The header of a mapping in smaps.
struct Mapping<'a> {
    /// Address and length.
    range: (usize, usize),
    is_constant: bool,
    /// Its path.
    file: Option<&'a str>,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let permissions = fields.next()?;
        let file = fields.nth(3).filter(|path| path.starts_with('/'));
        Some(Self {
            range: (start, end.saturating_sub(start)),
            is_constant: permissions.starts_with('r') && !permissions.contains('w'),
            file,
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
        assert_eq!(clean_file_mappings(smaps, |_| true), [(0x1000, 0x2000)]);
        assert!(clean_file_mappings(smaps, |path| path == "/bin/y").is_empty());
    }

    #[test]
    fn the_program_goes_on_after_a_rest() {
        let text: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        rest_of_threads();
        assert_eq!(text.concat().len(), 190);
    }
}
