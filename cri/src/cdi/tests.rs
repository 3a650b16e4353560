use std::fs;
use std::path::Path;

use rrun_cri_api::v1::{CdiDevice, ContainerConfig};
use serde_json::{Value, json};

use super::*;

const GPU: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: [COMMON=1]
  hooks:
  - hookName: createContainer
    path: /usr/bin/hook
    args: [hook, --all]
    timeout: 5
devices:
- name: "0"
  containerEdits:
    env: [GPU=zero, PATH=/gpu]
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/null
      permissions: rw
      fileMode: 0660
    additionalGids: [44, 0]
- name: all
  containerEdits:
    mounts:
    - {hostPath: /lib/gpu, containerPath: /usr/lib/gpu, options: [ro]}
    intelRdt: {closID: gpu}
    netDevices: [{hostInterfaceName: eth7, name: rdma0}]
"#;

fn config() -> Value {
    json!({
        "process": {"env": ["PATH=/bin"], "user": {"uid": 7, "gid": 0, "additionalGids": [44]}},
        "mounts": [{"destination": "/"}, {"destination": "/usr/lib/gpu/deep"}],
        "linux": {"resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    })
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn a_device_brings_what_its_file_says() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "gpu.yaml", GPU);
    let dirs = [dir.path().to_owned()];
    let mut spec = config();
    let devices = [
        "vendor.com/gpu=0".to_owned(),
        "vendor.com/gpu=all".to_owned(),
    ];
    inject(&dirs, &devices, &mut spec).unwrap();
    assert_eq!(
        spec["process"]["env"],
        json!(["PATH=/gpu", "COMMON=1", "GPU=zero"])
    );
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
    let node = json!({"path": "/dev/gpu0", "type": "c", "major": 1, "minor": 3, "fileMode": 0o660, "uid": 7});
    assert_eq!(spec["linux"]["devices"], json!([node]));
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
    assert_eq!(spec["linux"]["resources"]["devices"][1], rule);
    let hooks = spec["hooks"]["createContainer"].as_array().unwrap();
    assert_eq!(hooks.len(), 1, "once for both devices");
    assert_eq!(hooks[0]["timeout"], 5);
    let places: Vec<_> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["destination"])
        .collect();
    assert_eq!(places, ["/", "/usr/lib/gpu", "/usr/lib/gpu/deep"]);
    assert_eq!(spec["mounts"][1]["options"], json!(["rbind", "ro"]));
    assert_eq!(spec["linux"]["intelRdt"]["closID"], "gpu");
    assert_eq!(spec["linux"]["netDevices"]["eth7"]["name"], "rdma0");
}

#[test]
fn the_later_directory_goes_before_and_one_directory_must_not_contradict_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, run) = (dir.path().join("etc"), dir.path().join("run"));
    let file = |value: &str| {
        json!({"cdiVersion": "1.0.0", "kind": "v/c", "devices": [
            {"name": "d", "containerEdits": {"env": [format!("FROM={value}")]}}]})
        .to_string()
    };
    write(&etc, "a.json", &file("etc"));
    write(&run, "a.json", &file("run"));
    let dirs = [etc, run.clone(), dir.path().join("none")];
    let devices = ["v/c=d".to_owned()];
    let mut spec = json!({});
    inject(&dirs, &devices, &mut spec).unwrap();
    assert_eq!(spec["process"]["env"], json!(["FROM=run"]));
    write(&run, "b.json", &file("twice"));
    let error = inject(&dirs, &devices, &mut spec).unwrap_err().to_string();
    assert!(error.contains("is in two files"), "{error}");
}

#[test]
fn a_device_that_no_file_has_is_refused_and_broken_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "bad.json",
        r#"{"cdiVersion": "7.0.0", "kind": "v/c"}"#,
    );
    write(dir.path(), "worse.yaml", "kind: [");
    write(dir.path(), "other.txt", "not looked at");
    let dirs = [dir.path().to_owned()];
    let error = inject(&dirs, &["v/c=d".to_owned()], &mut json!({})).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("no CDI file has the device v/c=d"),
        "{error}"
    );
    assert!(
        error.contains("bad.json") && error.contains("worse.yaml"),
        "{error}"
    );
    assert!(
        !error.contains('\n') && !error.contains("other.txt"),
        "{error}"
    );
}

#[test]
fn edits_that_cannot_be_are_refused() {
    for edits in [
        json!({"env": ["=x"]}),
        json!({"deviceNodes": [{"path": "dev/x"}]}),
        json!({"deviceNodes": [{"path": "/dev/x", "type": "q"}]}),
        json!({"deviceNodes": [{"path": "/etc/passwd"}]}),
        json!({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}),
        json!({"deviceNodes": [{"path": "/dev/null", "permissions": "x"}]}),
        json!({"deviceNodes": [{"path": "/dev/x", "type": "c", "major": -1, "minor": 1}]}),
        json!({"mounts": [{"hostPath": "/x", "containerPath": "/"}]}),
        json!({"hooks": [{"hookName": "whenever", "path": "/x"}]}),
        json!({"hooks": [{"hookName": "poststop", "path": "x"}]}),
        json!({"netDevices": [{"name": "x"}]}),
    ] {
        let edits: spec::Edits = serde_json::from_value(edits.clone()).unwrap();
        assert!(edits::apply(&edits, &mut config()).is_err(), "{edits:?}");
    }
}

#[test]
fn devices_come_from_field_and_annotations_each_once() {
    let mut config = ContainerConfig {
        cdi_devices: vec![CdiDevice {
            name: "v/c=1".into(),
        }],
        ..Default::default()
    };
    let note = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    config.annotations.extend([
        note("cdi.k8s.io/plugin_x", "v/c=2, v/c=1"),
        note("other/cdi.k8s.io", "not a device"),
    ]);
    assert_eq!(asked(&config).unwrap(), ["v/c=1", "v/c=2"]);
    config.cdi_devices[0].name = "v/c".into();
    assert!(asked(&config).is_err());
}
