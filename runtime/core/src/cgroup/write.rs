//! One write to one file of a cgroup, as data, and its execution.

use crate::{Error, Result};
use rrun_sys::fd::Used;
use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write as _};
use std::path::Path;

/// EINVAL, as an I/O error has it.
const EINVAL: i32 = 22;

/// What a failed write means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// An error.
    Must,
    /// Nothing, when the file is not there: an older kernel, or swap accounting is off.
    IfThere,
    /// When the file is not there, this other write takes its place.
    Else(Box<Write>),
    /// EINVAL: try once more after the controller's other writes, which it constrains.
    Later,
    /// Like `Later`, and a missing file is no error.
    LaterIfThere,
    /// An entry of `linux.resources.unified`: written line by line.
    Unified,
}

/// One write, as it will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which controller's directory (v1) or which controller must be enabled (v2).
    pub controller: Cow<'static, str>,
    /// File name within the cgroup.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// What failure means.
    pub rule: Rule,
}

impl Write {
    /// A write that must succeed; the controller is the file's prefix.
    pub fn new(file: impl Into<Cow<'static, str>>, value: impl std::fmt::Display) -> Self {
        let file = file.into();
        let controller = match &file {
            Cow::Borrowed(name) => Cow::Borrowed(prefix(name)),
            Cow::Owned(name) => Cow::Owned(prefix(name).to_owned()),
        };
        Self {
            controller,
            file,
            value: value.to_string(),
            rule: Rule::Must,
        }
    }

    /// The same with another rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rule = rule;
        self
    }
}

fn prefix(file: &str) -> &str {
    file.split('.').next().unwrap_or(file)
}

/// Does the writes of one controller in `dir`, in order.
pub fn execute(dir: &Path, writes: &[&Write]) -> Result<()> {
    let mut later: Vec<&Write> = Vec::new();
    for write in writes {
        one(dir, write, &mut later)?;
    }
    for write in std::mem::take(&mut later) {
        put(dir, &write.file, &write.value).map_err(|e| explain(dir, write, e))?;
    }
    Ok(())
}

fn one<'a>(dir: &Path, write: &'a Write, later: &mut Vec<&'a Write>) -> Result<()> {
    if write.rule == Rule::Unified {
        return super::unified::execute(dir, write);
    }
    let Err(error) = put(dir, &write.file, &write.value) else {
        return Ok(());
    };
    let missing = error.kind() == ErrorKind::NotFound;
    match &write.rule {
        Rule::IfThere | Rule::LaterIfThere if missing => Ok(()),
        Rule::Else(other) if missing => one(dir, other, later),
        Rule::Later | Rule::LaterIfThere if error.raw_os_error() == Some(EINVAL) => {
            later.push(write);
            Ok(())
        }
        _ => Err(explain(dir, write, error)),
    }
}

/// Writes `value` to `file` of the cgroup `dir` in one write(2). Never creates the file.
pub fn put(dir: &Path, file: &str, value: &str) -> std::io::Result<()> {
    put_using(dir, file, value, &mut Used::default())
}

/// [`put`], with the open file given to `used`.
pub fn put_using(dir: &Path, file: &str, value: &str, used: &mut Used) -> std::io::Result<()> {
    let mut target = OpenOptions::new().write(true).open(dir.join(file))?;
    let written = target.write_all(value.as_bytes());
    used.put(target.into());
    written
}

/// Reads `file` of the cgroup `dir`, without the stat and the growing that
/// `std::fs::read` does: cgroup files say that their size is 0. The kernel fills a
/// buffer of a page as far as the next line fits, so that less than half is the end.
pub fn get(dir: &Path, file: &str) -> std::io::Result<String> {
    get_using(dir, file, &mut Used::default())
}

/// [`get`], with the open file given to `used`.
pub fn get_using(dir: &Path, file: &str, used: &mut Used) -> std::io::Result<String> {
    let mut source = std::fs::File::open(dir.join(file))?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match source.read(&mut buffer) {
            Ok(n) => {
                text.extend_from_slice(&buffer[..n]);
                if n < buffer.len() / 2 {
                    break;
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    used.put(source.into());
    String::from_utf8(text).map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))
}

/// The error of a failed write, with what is known of its cause.
fn explain(dir: &Path, write: &Write, error: std::io::Error) -> Error {
    if let Some(told) = super::memory::explain(dir, write, &error) {
        return told;
    }
    let what = if error.kind() == ErrorKind::NotFound && dir.join("cgroup.controllers").exists() {
        let enabled = get(dir, "cgroup.controllers").unwrap_or_default();
        format!(
            "cgroup controller {:?} is not enabled for the container (enabled: {:?}); enable it in the parent's cgroup.subtree_control",
            write.controller,
            enabled.trim_end()
        )
    } else {
        format!("failed to write {:?}", write.value)
    };
    let source = Error::file("write", dir.join(&*write.file), error);
    Error::Step {
        what: what.into(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_is_the_prefix_of_the_file() {
        assert_eq!(Write::new("memory.max", 1).controller, "memory");
        assert_eq!(
            Write::new("hugetlb.2MB.max".to_owned(), "x").controller,
            "hugetlb"
        );
    }
}
