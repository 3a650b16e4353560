//! cpuset: processors and memory nodes.

use super::write::{Write, get_using, put_using};
use crate::{Context, Error, Result};
use oci_spec::runtime::LinuxCpu;
use rrun_sys::fd::Used;
use std::path::Path;

/// Writes of both versions.
pub fn writes(cpu: &LinuxCpu, writes: &mut Vec<Write>) {
    if let Some(cpus) = cpu.cpus().as_deref().filter(|c| !c.is_empty()) {
        writes.push(Write::new("cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|m| !m.is_empty()) {
        writes.push(Write::new("cpuset.mems", mems));
    }
}

/// v1: a new cpuset is empty and cannot be joined. Gives `dir`, and each parent up
/// to `mount` that is still empty, what its parent has. `fresh` says that `dir` was
/// made just now; `cpus` and `mems` which of the two the container sets itself (a
/// parent's value could contradict `cpuset.cpu_exclusive`).
pub fn inherit(mount: &Path, dir: &Path, fresh: bool, cpus: bool, mems: bool) -> Result<()> {
    let parent = dir.parent().unwrap_or(mount);
    let used = &mut Used::default();
    for (file, own) in [("cpuset.cpus", cpus), ("cpuset.mems", mems)] {
        let inherited = if own {
            fill(mount, parent, file, used).map(drop)
        } else if fresh {
            fill(mount, parent, file, used).and_then(|value| set(dir, file, &value, used))
        } else {
            fill(mount, dir, file, used).map(drop)
        };
        inherited.with_context(|| format!("take {file} of {} from its parents", dir.display()))?;
    }
    Ok(())
}

/// The value of `file` in `dir`, filled from the parent when it is empty.
fn fill(mount: &Path, dir: &Path, file: &str, used: &mut Used) -> Result<String> {
    let value = get_using(dir, file, used).map_err(|e| Error::file("read", dir.join(file), e))?;
    if !value.trim_end().is_empty() || dir == mount {
        return Ok(value);
    }
    let parent = dir.parent().unwrap_or(mount);
    let value = fill(mount, parent, file, used)?;
    set(dir, file, &value, used)?;
    Ok(value)
}

fn set(dir: &Path, file: &str, value: &str, used: &mut Used) -> Result<()> {
    put_using(dir, file, value.trim_end(), used)
        .map_err(|e| Error::file("write", dir.join(file), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_parents_are_filled_from_the_top() {
        let top = std::env::temp_dir().join(format!("rrun-cpuset-{}", std::process::id()));
        let dir = top.join("a/b");
        std::fs::create_dir_all(&dir).unwrap();
        for (at, value) in [(&*top, "0-3\n"), (&top.join("a"), "\n"), (&dir, "\n")] {
            std::fs::write(at.join("cpuset.cpus"), value).unwrap();
            std::fs::write(
                at.join("cpuset.mems"),
                if value == "0-3\n" { "0\n" } else { value },
            )
            .unwrap();
        }
        inherit(&top, &dir, true, true, false).unwrap();
        let read = |p: &str| std::fs::read_to_string(top.join(p)).unwrap();
        assert_eq!(read("a/cpuset.cpus").trim(), "0-3");
        assert_eq!(read("a/b/cpuset.cpus").trim(), "");
        assert_eq!(read("a/b/cpuset.mems").trim(), "0");
        std::fs::remove_dir_all(&top).unwrap();
    }
}
