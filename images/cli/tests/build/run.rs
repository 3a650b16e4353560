//! RUN: what a command writes, sees and is not to leave behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rrun_tests::{Need, require};

use crate::kit::Tool;
use crate::{context, flat, inspect};

/// `rrun` of this build.
fn runtime() -> Option<String> {
    let exe = std::env::current_exe().ok()?;
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join("rrun"));
    let given = std::env::var_os("RRUN_BIN_DIR").map(|dir| Path::new(&dir).join("rrun"));
    let found = given
        .into_iter()
        .chain(beside)
        .find(|path| path.is_file())?;
    Some(found.to_str()?.to_owned())
}

#[test]
fn run_writes_a_layer_once() {
    require!(Need::Root, Need::Program("busybox"));
    let Some(runtime) = runtime() else {
        rrun_tests::report_skip(module_path!(), "needs rrun: cargo build -p rrun");
        return;
    };
    let tool = Tool::new();
    let context = context(
        &tool,
        &[
            (
                "Dockerfile",
                "FROM scratch\nCOPY busybox /bin/busybox\nCOPY old /old/\nRUN [\"/bin/busybox\", \"ln\", \"/bin/busybox\", \"/bin/sh\"]\n\
             ARG WHAT=it\nENV DIR=/made\n\
             RUN busybox mkdir $DIR && echo $WHAT > $DIR/file && busybox rm -r /old && busybox chown 5:6 $DIR/file\n\
             RUN busybox ip link | busybox grep -c mtu > /links\nUSER 7:8\nWORKDIR /made\nRUN busybox id -u > /dev/null && busybox test $PWD = /made\n",
            ),
            ("old/x", "1"),
        ],
    );
    fs::copy(
        rrun_tests::find_program("busybox").unwrap(),
        Path::new(&context).join("busybox"),
    )
    .unwrap();
    fs::set_permissions(
        Path::new(&context).join("busybox"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let build = [
        "build",
        &context,
        "--runtime",
        &runtime,
        "--tag",
        "made.test/a:1",
    ];
    tool.ok(&build);
    let root = flat(&tool, "made.test/a:1");
    assert_eq!(fs::read_to_string(root.join("made/file")).unwrap(), "it\n");
    let owner = fs::metadata(root.join("made/file")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (5, 6));
    assert!(!root.join("old").exists());
    assert_eq!(
        fs::read_to_string(root.join("links")).unwrap(),
        "1\n",
        "RUN has a network"
    );
    for mount_point in ["proc", "dev", "sys", "build"] {
        assert!(!root.join(mount_point).exists(), "{mount_point}");
    }
    let layers = inspect(&tool, "made.test/a:1")["layers"].clone();
    let again = tool.run(&build);
    assert_eq!(
        String::from_utf8_lossy(&again.stderr)
            .matches("as before")
            .count(),
        4
    );
    assert_eq!(inspect(&tool, "made.test/a:1")["layers"], layers);
    let failing =
        fs::read_to_string(Path::new(&context).join("Dockerfile")).unwrap() + "RUN busybox false\n";
    fs::write(Path::new(&context).join("Dockerfile"), failing).unwrap();
    let output = tool.run(&build);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("line 12: the command ended with status 1"),
        "{stderr}"
    );
    assert_eq!(fs::read_dir(tool.path("store/build")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(tool.path("store/rootfs")).unwrap().count(), 0);
}

/// A context with busybox.
fn busybox_context(tool: &Tool, files: &[(&str, &str)]) -> String {
    let context = context(tool, files);
    let busybox = Path::new(&context).join("busybox");
    fs::copy(rrun_tests::find_program("busybox").unwrap(), &busybox).unwrap();
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
    context
}

#[test]
fn mounts_of_run_are_seen_and_leave_nothing() {
    require!(Need::Root, Need::Program("busybox"));
    let Some(runtime) = runtime() else {
        rrun_tests::report_skip(module_path!(), "needs rrun: cargo build -p rrun");
        return;
    };
    let tool = Tool::new();
    let dockerfile = "FROM scratch AS tools\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
        FROM tools AS made\nRUN echo made > /made\nFROM tools\nCOPY <<ONE <<'TWO' /etc/\n\
        $HOME is ${NONE:-nobody}\nONE\n$HOME\nTWO\n\
        RUN --mount=type=bind,target=/src --mount=from=made,source=/made,target=/deep/made \\\n\
        --mount=type=tmpfs,target=/scratch --mount=type=secret,id=key,mode=0440,gid=9 \\\n\
        --mount=type=secret,id=word,env=WORD --mount=type=cache,target=/cache <<EOF\n\
        set -e\nbusybox cat /src/a /deep/made /run/secrets/key > /seen\n\
        echo $WORD >> /seen\nbusybox stat -c '%a %g' /run/secrets/key >> /seen\n\
        ! test -e /src/hidden\n! touch /src/x\ntouch /scratch/x\necho more >> /cache/file\n\
        busybox wc -l < /cache/file >> /seen\nEOF\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("a", "a\n"),
        ("hidden", "h"),
        (".dockerignore", "hid*\n"),
        ("../key", "secret\n"),
    ];
    let context = busybox_context(&tool, &files);
    let key = tool.path("key");
    let secret = format!("id=key,src={}", key.display());
    let mut build = vec![
        "build",
        &context,
        "--runtime",
        &runtime,
        "--tag",
        "m.test/a:1",
    ];
    build.extend(["--secret", &secret, "--secret", "id=word,env=A_WORD"]);
    let run = || {
        let output = tool.command(&build).env("A_WORD", "word").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        stderr.matches("as before").count()
    };
    assert_eq!(run(), 0);
    let root = flat(&tool, "m.test/a:1");
    let seen = |lines| format!("a\nmade\nsecret\nword\n440 9\n{lines}\n");
    let read = |root: &Path, file: &str| fs::read_to_string(root.join(file)).unwrap();
    assert_eq!(read(&root, "seen"), seen(1));
    assert_eq!(read(&root, "etc/ONE"), " is nobody\n");
    assert_eq!(read(&root, "etc/TWO"), "$HOME\n");
    for gone in ["src", "deep", "scratch", "cache", "run", "proc", "made"] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
    assert_eq!(run(), 2, "the same files, the same layer");
    fs::write(Path::new(&context).join("hidden"), "other").unwrap();
    assert_eq!(run(), 2, "what is hidden does not matter");
    fs::write(Path::new(&context).join("a"), "b\n").unwrap();
    assert_eq!(run(), 1, "what is mounted does");
    let again = read(&flat(&tool, "m.test/a:1"), "seen");
    assert_eq!(
        again,
        seen(2).replace("a\nmade", "b\nmade"),
        "the cache is kept"
    );
    assert_eq!(fs::read_dir(tool.path("store/build")).unwrap().count(), 0);
    tool.ok(&["prune", "--all"]);
    let left = fs::read_dir(tool.path("store/build-mounts")).unwrap();
    let left: Vec<_> = left
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_secret_that_is_wanted_and_not_given_is_an_error() {
    require!(Need::Root, Need::Program("busybox"));
    let tool = Tool::new();
    let dockerfile = "FROM scratch\nCOPY busybox /bin/sh\n\
        RUN --mount=type=secret,id=key,required true\n";
    let context = busybox_context(&tool, &[("Dockerfile", dockerfile)]);
    let error = tool.fails(&["build", &context, "--quiet"]);
    assert!(error.contains("line 3: there is no secret key"), "{error}");
    let dockerfile = "FROM scratch\nCOPY busybox /bin/sh\nRUN --network=host true\n";
    let context = busybox_context(&tool, &[("Dockerfile", dockerfile)]);
    let error = tool.fails(&["build", &context, "--quiet"]);
    assert!(error.contains("line 3: --network=host"), "{error}");
}
