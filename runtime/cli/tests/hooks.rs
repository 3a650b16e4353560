//! Hooks run in order, with the state, in the right namespaces; their failure counts.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, shell};
use rrun_tests::{Bundle, Need, require};
use serde_json::{Value, json};
use std::fs;

#[test]
fn six_hooks_with_their_states() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut bundle = shell("cat /startContainer");
    let hook = |name: &str, file: String| {
        let script = format!("cat > {file}; echo {name} >> {path}/order");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let mut hooks = serde_json::Map::new();
    for name in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        hooks.insert(name.into(), hook(name, format!("{path}/{name}")));
    }
    hooks.insert(
        "startContainer".into(),
        json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /startContainer"]}]),
    );
    bundle.config["hooks"] = Value::Object(hooks);
    let inside: Value = serde_json::from_str(&rrun.run(&bundle).ok()).unwrap();
    assert_eq!(inside["status"], "created");
    assert_eq!(inside["pid"], 1);
    let order = fs::read_to_string(dir.path().join("order")).unwrap();
    let expected = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    assert_eq!(order.lines().collect::<Vec<_>>(), expected);
    let state = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
    };
    assert_eq!(state("createRuntime")["status"], "creating");
    assert_eq!(state("poststart")["status"], "running");
    assert_eq!(state("poststop")["status"], "stopped");
}

#[test]
fn a_failing_hook_ends_the_container() {
    require!(Need::Root);
    let rrun = Runtime::new();
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ] {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let script = "echo why >&2; exit 3";
        bundle.config["hooks"] = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        let error = rrun.run(&bundle).fails();
        assert!(
            error.contains(&format!("error running {kind} hook #0")),
            "{error}"
        );
        assert!(
            error.contains("exit status 3") && error.contains("why"),
            "{error}"
        );
    }
    assert!(fs::read_dir(rrun.root()).is_ok_and(|mut d| d.next().is_none()));
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["hooks"] = json!({"createRuntime":
        [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]});
    let error = rrun.run(&bundle).fails();
    assert!(error.contains("timed out after 1 s"), "{error}");
}

#[test]
fn output_goes_to_the_files_of_cruns_annotations() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["annotations"] =
        json!({"run.oci.hooks.stdout": file("out"), "run.oci.hooks.stderr": file("err")});
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo one; echo two >&2"]}]);
    bundle.config["hooks"] = json!({"createRuntime": hook, "createContainer": hook,
        "startContainer": hook, "poststop": hook});
    rrun.run(&bundle).ok();
    // Not of the hook in the container, which has the host's files out of reach.
    assert_eq!(fs::read_to_string(file("out")).unwrap(), "one\n".repeat(3));
    assert_eq!(fs::read_to_string(file("err")).unwrap(), "two\n".repeat(3));
}
