//! The bundle as a whole, from a request to config.json.

use rrun_cri_api::v1;
use serde_json::{Value, json};

use super::*;
use crate::sandbox::users::Range;

const ALL: Limits = Limits {
    swap: true,
    hugetlb: true,
};

fn facts() -> Facts {
    Facts {
        image: ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["image-arg".into()],
            env: vec!["A=image".into(), "B=image".into()],
            working_dir: "/work".into(),
            ..Default::default()
        },
        rootfs: vec!["lowerdir=/l".into()],
        sandbox_dir: "/s".into(),
        hostname: "pod".into(),
        cgroup: "/pod/c".into(),
        held_capabilities: u64::MAX,
        seccomp: true,
        oom_floor: -999,
        arch: "x86_64".into(),
        ..Default::default()
    }
}

fn make(config: v1::ContainerConfig, facts: &Facts) -> Result<Value> {
    let sandbox = SandboxRecord {
        config: Some(v1::PodSandboxConfig {
            hostname: "pod".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = ContainerRecord {
        config: Some(config),
        ..Default::default()
    };
    bundle(&sandbox, &container, facts).map(|b| b.spec)
}

fn security(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> v1::ContainerConfig {
    let mut context = v1::LinuxContainerSecurityContext {
        namespace_options: Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Container as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    change(&mut context);
    v1::ContainerConfig {
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(context),
            resources: Some(v1::LinuxContainerResources::default()),
        }),
        ..Default::default()
    }
}

fn plain() -> v1::ContainerConfig {
    security(|_| ())
}

#[test]
fn a_command_replaces_both_and_arguments_replace_cmd() {
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&[], &[], &["/entry", "image-arg"]),
        (&[], &["a"], &["/entry", "a"]),
        (&["/c"], &[], &["/c"]),
        (&["/c"], &["a"], &["/c", "a"]),
    ];
    for (command, args, wanted) in cases {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        let config = v1::ContainerConfig {
            command: own(command),
            args: own(args),
            ..plain()
        };
        let spec = make(config, &facts()).unwrap();
        assert_eq!(spec["process"]["args"], json!(wanted));
    }
}

/// crun 1.8 refuses a later one by its number alone.
#[test]
fn the_version_is_one_that_older_runtimes_take() {
    let spec = make(plain(), &facts()).unwrap();
    assert_eq!(spec["ociVersion"], "1.0.2");
}

#[test]
fn no_command_at_all_is_refused() {
    let mut facts = facts();
    facts.image = ImageConfig::default();
    assert!(make(plain(), &facts).is_err());
}

#[test]
fn the_environment_of_the_request_wins() {
    let config = v1::ContainerConfig {
        envs: vec![v1::KeyValue {
            key: "A".into(),
            value: b"request=x".to_vec(),
        }],
        tty: true,
        ..plain()
    };
    let spec = make(config, &facts()).unwrap();
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env.contains(&json!("A=request=x")) && !env.contains(&json!("A=image")));
    for entry in ["B=image", "TERM=xterm", "HOSTNAME=pod"] {
        assert!(env.contains(&json!(entry)), "{entry}");
    }
}

#[test]
fn namespaces_are_the_pod_pins_and_an_own_pid() {
    let spec = make(plain(), &facts()).unwrap();
    let namespaces = &spec["linux"]["namespaces"];
    assert_eq!(
        *namespaces,
        json!([
            {"type": "mount"},
            {"type": "network", "path": "/s/ns/net"},
            {"type": "uts", "path": "/s/ns/uts"},
            {"type": "ipc", "path": "/s/ns/ipc"},
            {"type": "pid"},
        ])
    );
}

#[test]
fn joining_a_pid_namespace_that_is_not_there_is_refused() {
    let config = security(|c| {
        let options = c.namespace_options.get_or_insert_default();
        options.set_pid(v1::NamespaceMode::Target);
    });
    assert!(make(config, &facts()).is_err());
}

#[test]
fn mounts_start_with_the_root_and_a_request_replaces_a_default() {
    let config = v1::ContainerConfig {
        mounts: vec![v1::Mount {
            container_path: "/etc/hosts".into(),
            readonly: true,
            ..Default::default()
        }],
        ..plain()
    };
    let mut facts = facts();
    facts.mounts = vec![MountFact {
        source: Source::Path("/h".into()),
        shared: false,
        slave: false,
    }];
    let spec = make(config, &facts).unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    assert_eq!(mounts[0]["destination"], "/");
    let hosts: Vec<_> = mounts
        .iter()
        .filter(|m| m["destination"] == "/etc/hosts")
        .collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0]["source"], "/h");
    assert_eq!(hosts[0]["options"], json!(["rbind", "rprivate", "ro"]));
    let position = |path: &str| mounts.iter().position(|m| m["destination"] == path);
    assert!(position("/dev") < position("/dev/shm"));
}

#[test]
fn propagation_needs_a_shared_source() {
    for (propagation, shared, fine) in [
        (v1::MountPropagation::PropagationBidirectional, false, false),
        (v1::MountPropagation::PropagationBidirectional, true, true),
        (v1::MountPropagation::PropagationHostToContainer, true, true),
        (
            v1::MountPropagation::PropagationHostToContainer,
            false,
            false,
        ),
    ] {
        let config = v1::ContainerConfig {
            mounts: vec![v1::Mount {
                container_path: "/m".into(),
                propagation: propagation as i32,
                ..Default::default()
            }],
            ..plain()
        };
        let mut facts = facts();
        facts.mounts = vec![MountFact {
            source: Source::Path("/h".into()),
            shared,
            slave: false,
        }];
        let spec = make(config, &facts);
        assert_eq!(spec.is_ok(), fine, "{propagation:?} {shared}");
        if let Ok(spec) = spec {
            assert!(spec["linux"]["rootfsPropagation"].is_string());
        }
    }
}

#[test]
fn privileged_hides_nothing() {
    let spec = make(security(|c| c.privileged = true), &facts()).unwrap();
    let linux = &spec["linux"];
    assert!(linux["maskedPaths"].is_null() && linux["seccomp"].is_null());
    assert_eq!(
        linux["resources"]["devices"],
        json!([{"allow": true, "access": "rwm"}])
    );
    let bounding = spec["process"]["capabilities"]["bounding"].as_array();
    assert_eq!(bounding.unwrap().len(), 41);
}

#[test]
fn what_the_daemon_cannot_lower_stays() {
    let mut config = plain();
    let linux = config.linux.as_mut().unwrap();
    linux.resources.as_mut().unwrap().oom_score_adj = -998;
    let mut facts = facts();
    facts.oom_floor = 0;
    let spec = make(config.clone(), &facts).unwrap();
    assert_eq!(spec["process"]["oomScoreAdj"], 0);
    facts.oom_floor = -999;
    let spec = make(config, &facts).unwrap();
    assert_eq!(spec["process"]["oomScoreAdj"], -998);
}

#[test]
fn resources_leave_out_what_is_zero() {
    let asked = v1::LinuxContainerResources {
        cpu_quota: 5000,
        memory_limit_in_bytes: 1 << 20,
        ..Default::default()
    };
    assert_eq!(
        resources(&asked, ALL),
        json!({"memory": {"limit": 1 << 20, "swap": 1 << 20}, "cpu": {"quota": 5000}})
    );
    assert_eq!(
        resources(&v1::LinuxContainerResources::default(), ALL),
        json!({})
    );
}

#[test]
fn an_exec_keeps_the_user_and_takes_another_command() {
    let spec = make(plain(), &facts()).unwrap();
    let process = exec_process(&spec, &["ls".to_owned()], true).unwrap();
    assert_eq!(process["args"], json!(["ls"]));
    assert_eq!(process["terminal"], true);
    assert_eq!(process["user"], spec["process"]["user"]);
    assert!(exec_process(&spec, &[], false).is_err());
}

#[test]
#[allow(deprecated)]
fn the_default_profile_of_apparmor_is_for_who_is_not_privileged() {
    use super::{AskedAppArmor, asked_apparmor};
    use rrun_cri_api::v1::security_profile::ProfileType;
    let asked = |kind: Option<ProfileType>, old: &str| {
        let security = v1::LinuxContainerSecurityContext {
            apparmor: kind.map(|kind| v1::SecurityProfile {
                profile_type: kind as i32,
                localhost_ref: "localhost/mine".into(),
            }),
            apparmor_profile: old.into(),
            ..Default::default()
        };
        asked_apparmor(&security)
    };
    let mine = AskedAppArmor::Localhost("mine".into());
    assert_eq!(
        asked(Some(ProfileType::Localhost), "unconfined").unwrap(),
        mine
    );
    assert_eq!(asked(None, "localhost/mine").unwrap(), mine);
    assert_eq!(
        asked(None, "").unwrap(),
        AskedAppArmor::Default { said: false }
    );
    let said = AskedAppArmor::Default { said: true };
    assert_eq!(asked(Some(ProfileType::RuntimeDefault), "").unwrap(), said);
    assert_eq!(asked(None, "runtime/default").unwrap(), said);
    assert_eq!(
        asked(None, "unconfined").unwrap(),
        AskedAppArmor::Unconfined
    );
    assert!(asked(None, "mine").is_err() && asked(None, "localhost/").is_err());
}

/// A kubelet sends limits of 0 for every size of page; containers did not start without the controller.
#[test]
fn limits_of_huge_pages_are_left_out_without_the_controller() {
    let asked = v1::LinuxContainerResources {
        hugepage_limits: vec![v1::HugepageLimit {
            page_size: "2MB".into(),
            limit: 0,
        }],
        ..Default::default()
    };
    let limits = |hugetlb| {
        resources(
            &asked,
            Limits {
                swap: true,
                hugetlb,
            },
        )
    };
    assert_eq!(limits(true)["hugepageLimits"][0]["pageSize"], "2MB");
    assert!(limits(false).get("hugepageLimits").is_none());
}

#[test]
fn a_label_is_left_out_where_there_is_no_selinux() {
    let config = security(|s| {
        s.selinux_options = Some(v1::SeLinuxOption {
            r#type: "container_t".into(),
            level: "s0:c1,c2".into(),
            ..Default::default()
        });
    });
    let label = |selinux| {
        let facts = Facts { selinux, ..facts() };
        make(config.clone(), &facts).unwrap()["process"]["selinuxLabel"].clone()
    };
    assert_eq!(
        label(Some(AskedSelinux::Requested)),
        "system_u:system_r:container_t:s0:c1,c2"
    );
    assert_eq!(label(None), Value::Null);
}

#[test]
fn a_pod_without_a_name_has_the_machines_in_its_environment() {
    let facts = Facts {
        hostname: "machine".into(),
        ..facts()
    };
    let spec = make(plain(), &facts).unwrap();
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env.contains(&json!("HOSTNAME=machine")), "{env:?}");
}

/// A kubelet says `procMount: Unmasked` by naming no path, in a pod with users of its own.
#[test]
fn no_list_of_hidden_paths_is_a_wish_where_unmasked_is_allowed() {
    let hidden = |users_of_pod| {
        let facts = Facts {
            users_of_pod,
            ..facts()
        };
        let spec = make(plain(), &facts).unwrap();
        spec["linux"]["maskedPaths"].as_array().unwrap().len()
    };
    let range = Range {
        host: 100_000,
        length: 65_536,
    };
    let maps = IdMaps {
        uids: range,
        gids: range,
    };
    assert!(hidden(None) > 5);
    assert_eq!(hidden(Some(maps)), 0);
}

#[test]
fn a_relative_destination_is_below_the_root() {
    let mut config = plain();
    config.mounts = vec![v1::Mount {
        container_path: "data/".into(),
        host_path: "/h".into(),
        ..Default::default()
    }];
    let mut facts = facts();
    facts.mounts = vec![MountFact {
        source: Source::Path("/h".into()),
        shared: false,
        slave: false,
    }];
    let spec = make(config.clone(), &facts).unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    assert!(mounts.iter().any(|m| m["destination"] == "/data"));
    config.mounts[0].container_path = "/".into();
    assert!(make(config, &facts).is_err());
}

#[test]
fn an_annotation_names_the_image_as_it_was_asked_for() {
    let mut config = plain();
    config.image = Some(v1::ImageSpec {
        image: "sha256:00".into(),
        user_specified_image: "busybox".into(),
        ..Default::default()
    });
    let spec = make(config, &facts()).unwrap();
    assert_eq!(
        spec["annotations"]["io.kubernetes.cri.image-name"],
        "busybox"
    );
}
