//! `.dockerignore`, and the patterns of COPY's sources (Go's filepath.Match with `**`).

/// The patterns of a `.dockerignore`; the last that matches decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Ignore(Vec<(bool, Vec<String>)>);

impl Ignore {
    pub fn parse(text: &str) -> Self {
        let pattern = |line: &str| {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                return None;
            }
            let (keep, line) = match line.strip_prefix('!') {
                Some(line) => (true, line.trim_start()),
                None => (false, line),
            };
            let mut parts: Vec<String> = Vec::new();
            // As Go's filepath.Clean does.
            for part in line.split('/') {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()),
                    part => parts.push(part.to_owned()),
                }
            }
            Some((keep, parts))
        };
        let text = text.trim_start_matches('\u{feff}');
        Self(text.lines().filter_map(pattern).collect())
    }

    /// True where nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where a path below the context is left out, itself or with a directory above it.
    pub fn hides(&self, path: &[&str]) -> bool {
        let mut hidden = false;
        for (keep, pattern) in &self.0 {
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            if (1..=path.len()).any(|n| matches_path(&pattern, &path[..n])) {
                hidden = !keep;
            }
        }
        hidden
    }

    /// True where something below a hidden directory may be kept after all.
    pub fn has_exceptions(&self) -> bool {
        self.0.iter().any(|(keep, _)| *keep)
    }
}

/// Component by component; `**` is any number of them.
pub(super) fn matches_path(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => (0..=path.len()).any(|n| matches_path(rest, &path[n..])),
        (Some((first, rest)), Some((name, below))) => {
            let (first, name): (Vec<char>, Vec<char>) =
                (first.chars().collect(), name.chars().collect());
            matches_name(&first, &name) && matches_path(rest, below)
        }
        _ => false,
    }
}

/// `*`, `?`, `[a-z]`, `[^a]` and `\` within one name.
fn matches_name(pattern: &[char], name: &[char]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some('*'), _) => (0..=name.len()).any(|n| matches_name(&pattern[1..], &name[n..])),
        (Some('?'), Some(_)) => matches_name(&pattern[1..], &name[1..]),
        (Some('['), Some(&c)) => match class(&pattern[1..], c) {
            Some((true, length)) => matches_name(&pattern[1 + length..], &name[1..]),
            _ => false,
        },
        (Some('\\'), Some(c)) if pattern.get(1) == Some(c) => {
            matches_name(&pattern[2..], &name[1..])
        }
        (Some(p), Some(c)) if p == c => matches_name(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// Whether a class has a character, and the class' length with its `]`.
fn class(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let end = pattern.iter().skip(1).position(|&p| p == ']')? + 1;
    let (negated, mut rest) = match pattern[0] {
        '^' | '!' => (true, &pattern[1..end]),
        _ => (false, &pattern[..end]),
    };
    let mut found = false;
    while let Some((&first, after)) = rest.split_first() {
        if let (Some('-'), Some(&last)) = (after.first(), after.get(1)) {
            found |= (first..=last).contains(&c);
            rest = &after[2..];
        } else {
            found |= first == c;
            rest = after;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_decides() {
        let ignore = Ignore::parse("# c\n*.log\n**/tmp\nsecret/\n!keep.log\n/a/b?\n");
        let hides = |path: &str| ignore.hides(&path.split('/').collect::<Vec<_>>());
        for path in ["x.log", "tmp", "a/tmp", "a/x/tmp/y", "secret/key", "a/b1"] {
            assert!(hides(path), "{path}");
        }
        for path in ["keep.log", "a/x.log", "a/b", "tmp2", "secrets"] {
            assert!(!hides(path), "{path}");
        }
    }

    #[test]
    fn names_match_as_in_go() {
        let matches = |pattern: &str, name: &str| matches_path(&[pattern], &[name]);
        assert!(matches("[a-c]?*", "bxy") && !matches("[^a]", "a") && matches("[^a]", "b"));
        assert!(matches("\\*", "*") && !matches("\\*", "a") && !matches("[a", "a"));
    }
}
