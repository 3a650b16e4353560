//! The tool under test, in a store of its own.
#![allow(dead_code, clippy::unwrap_used)]

pub mod gate;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

pub struct Tool {
    dir: tempfile::TempDir,
}

impl Tool {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun-image"));
        command.arg("--store").arg(self.path("store")).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        stderr
    }

    /// Directories of two layers, the upper one changing the lower.
    pub fn directories(&self) -> (String, String) {
        let (a, b) = (self.path("a"), self.path("b"));
        fs::create_dir_all(a.join("bin")).unwrap();
        fs::create_dir_all(b.join("etc")).unwrap();
        fs::write(a.join("bin/tool"), "one").unwrap();
        fs::hard_link(a.join("bin/tool"), a.join("bin/same")).unwrap();
        fs::write(b.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("passwd", b.join("etc/link")).unwrap();
        (
            a.to_str().unwrap().to_owned(),
            b.to_str().unwrap().to_owned(),
        )
    }

    pub fn build(&self, tag: &str) -> String {
        let (a, b) = self.directories();
        self.ok(&[
            "build-layers",
            &a,
            &b,
            "--tag",
            tag,
            "--cmd",
            r#"["/bin/tool","-v"]"#,
            "--env",
            "A=b",
        ])
    }
}

pub fn outside(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
