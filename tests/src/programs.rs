//! Finds the programs under test and the peers' programs.

use std::path::{Path, PathBuf};

/// A peer's program by file name: on `PATH`, in the sbin directories, or among Debian's
/// CNI plugins.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/cni"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// One of this workspace's programs, e.g. `rrun`: from the directory `RRUN_BIN_DIR`, else
/// beside the running test's own target directory (`target/<profile>/`).
///
/// # Panics
///
/// Where the program is not built; the message says how to build it.
pub fn program(name: &str) -> PathBuf {
    let directories = std::env::var_os("RRUN_BIN_DIR")
        .map(PathBuf::from)
        .into_iter()
        .chain(
            std::env::current_exe()
                .iter()
                .flat_map(|test| test.ancestors().skip(1).take(2).map(Path::to_path_buf))
                .collect::<Vec<_>>(),
        );
    let candidates: Vec<_> = directories.map(|dir| dir.join(name)).collect();
    candidates.iter().find(|path| path.is_file()).cloned().unwrap_or_else(|| {
        panic!("{name} is not built: run `cargo build`, or set RRUN_BIN_DIR (looked at {candidates:?})")
    })
}
