//! Limits, processes, figures: pause, resume, ps, update, events, features, seccomp.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Runtime, add_mount, shell};
use rrun_tests::{Bundle, Need, require, wait_until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

fn bundle(args: &[&str], edit: impl FnOnce(&mut Value)) -> Bundle {
    let mut bundle = Bundle::new(args);
    edit(&mut bundle.config);
    bundle
}

/// The file of a running container's cgroup, whichever version the machine has.
fn cgroup_file(rrun: &Runtime, id: &str, v1: (&str, &str), v2: &str) -> String {
    let text = std::fs::read_to_string(rrun.root().join(id).join("state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    let paths = &state["cgroup_paths"];
    let path = match paths[v1.0].as_str() {
        Some(dir) => Path::new(dir).join(v1.1),
        None => PathBuf::from(paths[""].as_str().unwrap()).join(v2),
    };
    std::fs::read_to_string(path).unwrap().trim_end().to_owned()
}

#[test]
fn pause_and_resume() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let id = rrun.start(&Bundle::new(&["sleep", "1000"]));
    assert!(
        rrun.rrun(&["resume", &id])
            .fails()
            .contains("container not paused")
    );
    rrun.rrun(&["pause", &id]).ok();
    assert_eq!(rrun.state(&id)["status"], "paused");
    assert!(rrun.rrun(&["pause", &id]).fails().contains("not running"));
    rrun.rrun(&["resume", &id]).ok();
    assert_eq!(rrun.state(&id)["status"], "running");
    rrun.rrun(&["pause", &id]).ok();
    rrun.rrun(&["delete", "--force", &id]).ok();
}

#[test]
fn ps_shows_the_containers_processes_alone() {
    require!(Need::Root, Need::Program("ps"));
    let rrun = Runtime::new();
    let id = rrun.start(&Bundle::new(&["sleep", "1234"]));
    let pid = rrun.state(&id)["pid"].as_i64().unwrap();
    let list: Vec<i64> = serde_json::from_str(&rrun.rrun(&["ps", "-f", "json", &id]).ok()).unwrap();
    assert_eq!(list, [pid]);
    let table = rrun.rrun(&["ps", &id]).ok();
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("sleep 1234"), "{table}");
    let table = rrun.rrun(&["ps", &id, "-eo", "pid,args"]).ok();
    assert!(
        table.starts_with("    PID") || table.contains("PID COMMAND"),
        "{table}"
    );
}

#[test]
fn update_changes_what_it_names_and_nothing_else() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = bundle(&["sleep", "1000"], |config| {
        config["linux"]["resources"] = json!({"cpu": {"quota": 40000, "period": 80000},
            "memory": {"limit": 67_108_864}, "pids": {"limit": 50}});
    });
    let id = rrun.start(&bundle);
    let read = |v1, v2| cgroup_file(&rrun, &id, v1, v2);
    rrun.rrun(&["update", "--cpu-quota", "20000", &id]).ok();
    let quota = read(("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota == "20000" || quota == "20000 80000", "{quota}");
    assert_eq!(
        read(("memory", "memory.limit_in_bytes"), "memory.max"),
        "67108864"
    );
    assert_eq!(read(("pids", "pids.max"), "pids.max"), "50");

    rrun.rrun(&["update", "--memory", "32M", "--pids-limit", "-1", &id])
        .ok();
    assert_eq!(
        read(("memory", "memory.limit_in_bytes"), "memory.max"),
        "33554432"
    );
    assert_eq!(read(("pids", "pids.max"), "pids.max"), "max");

    let mut child = rrun
        .command(&["update", "-r", "-", &id])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let input = br#"{"pids": {"limit": 9}, "cpu": {}}"#;
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(read(("pids", "pids.max"), "pids.max"), "9");

    let error = rrun.rrun(&["update", "--memory", "12x", &id]).fails();
    assert!(error.contains("invalid value for memory"), "{error}");
}

/// A value that the kernel refuses leaves all limits as they were.
#[test]
fn update_that_fails_is_taken_back() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = bundle(&["sleep", "1000"], |config| {
        config["linux"]["resources"] =
            json!({"pids": {"limit": 50}, "memory": {"limit": 67_108_864}});
    });
    let id = rrun.start(&bundle);
    let wrong = ["update", "--memory", "48M", "--cpuset-cpus", "9999", &id];
    let error = rrun.rrun(&wrong).fails();
    assert!(error.contains("cpuset.cpus"), "{error}");
    let limit = cgroup_file(
        &rrun,
        &id,
        ("memory", "memory.limit_in_bytes"),
        "memory.max",
    );
    assert_eq!(limit, "67108864");
}

#[test]
fn events_stats_has_runcs_fields() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = bundle(&["sleep", "1000"], |config| {
        config["linux"]["resources"] =
            json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 50}});
    });
    let id = rrun.start(&bundle);
    let line: Value = serde_json::from_str(&rrun.rrun(&["events", "--stats", &id]).ok()).unwrap();
    assert_eq!((&line["type"], &line["id"]), (&json!("stats"), &json!(id)));
    let data = &line["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert_eq!(data["pids"], json!({"current": 1, "limit": 50}));
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(data["memory"]["raw"].as_object().unwrap().len() > 10);
}

#[test]
fn events_tells_of_processes_killed_for_memory_and_ends_with_the_container() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = bundle(&["sleep", "1000"], |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    });
    let id = rrun.start(&bundle);
    let log = rrun.root().join("events");
    let mut events = rrun
        .command(&["events", "--interval", "200ms", &id])
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&log).unwrap();
    let minute = Duration::from_mins(1);
    wait_until("figures", minute, || read().contains("\"stats\""));
    let hog = "x=$(dd if=/dev/urandom bs=1M count=64)";
    assert_ne!(rrun.rrun(&["exec", &id, "sh", "-c", hog]).code, 0);
    let line = format!("{{\"type\":\"oom\",\"id\":\"{id}\"}}\n");
    wait_until("the event", minute, || read().contains(&line));
    rrun.rrun(&["delete", "--force", &id]).ok();
    assert!(events.wait().unwrap().success());
}

#[test]
fn features_tells_what_callers_look_for() {
    let features: Value = serde_json::from_str(&Runtime::new().rrun(&["features"]).ok()).unwrap();
    let options = features["mountOptions"].as_array().unwrap();
    for option in ["rro", "rbind", "tmpcopyup"] {
        assert!(options.contains(&json!(option)), "{option}");
    }
    assert_eq!(
        features["linux"]["mountExtensions"]["idmap"]["enabled"],
        true
    );
    assert_eq!(
        features["linux"]["seccomp"]["actions"]
            .as_array()
            .unwrap()
            .len(),
        9
    );
    assert_eq!(
        features["linux"]["capabilities"].as_array().unwrap().len(),
        41
    );
}

#[test]
fn seccomp_refuses_and_is_kept_by_the_profile() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let mkdir = |errno: u32| {
        bundle(&["mkdir", "/dev/shm/x"], |config| {
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]});
        })
    };
    let cached = || std::fs::read_dir(rrun.root().join(".seccomp")).map_or(0, Iterator::count);
    assert!(
        rrun.run(&mkdir(1))
            .fails()
            .contains("Operation not permitted")
    );
    assert_eq!(cached(), 1);
    assert!(
        rrun.run(&mkdir(1))
            .fails()
            .contains("Operation not permitted")
    );
    assert_eq!(cached(), 1);
    assert!(rrun.run(&mkdir(100)).fails().contains("Network is down"));
    assert_eq!(cached(), 2);
}

/// CRI-O's profile for privileged pods is such a list: what it does not name is EPERM.
#[test]
fn programs_are_found_under_a_profile_without_faccessat2() {
    require!(Need::Root);
    let rrun = Runtime::new();
    for program in ["true", "/bin/true"] {
        let bundle = bundle(&[program], |config| {
            // Else the profile comes into force after the program was found.
            config["process"]["noNewPrivileges"] = json!(false);
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["faccessat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
        });
        let ran = rrun.run(&bundle);
        assert_eq!(ran.code, 0, "{program}: {ran:?}");
    }
}

/// A capability that this process lacks is left out with a warning that names it.
#[test]
fn missing_capability_is_named_and_left_out() {
    require!(Need::Root);
    if rrun_tests::missing(&[Need::CapSysResource]).is_none() {
        rrun_tests::report_skip(module_path!(), "needs to be without CAP_SYS_RESOURCE");
        return;
    }
    let rrun = Runtime::new();
    let bundle = bundle(&["true"], |config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_SYS_RESOURCE"]);
        }
    });
    let ran = rrun.run(&bundle);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("CAP_SYS_RESOURCE"), "{ran:?}");
}

#[test]
fn network_devices_move_with_their_global_addresses() {
    require!(Need::Root, Need::Network, Need::Program("ip"));
    let ip = |args: &str| {
        let output = std::process::Command::new("ip")
            .args(args.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {args}: {output:?}");
    };
    let rrun = Runtime::new();
    let host = format!("rv{}", std::process::id() % 1_000_000);
    let peer = format!("{host}p");
    ip(&format!("link add {host} type veth peer name {peer}"));
    ip(&format!("link set {host} mtu 1400"));
    ip(&format!(
        "address add 169.254.77.1/24 dev {host} scope global"
    ));
    ip(&format!(
        "address add 169.254.78.1/24 dev {host} scope link"
    ));
    let mut bundle = kit::shell("ip address show dev moved0");
    bundle.config["linux"]["netDevices"] = serde_json::json!({host.as_str(): {"name": "moved0"}});
    let ran = rrun.run(&bundle);
    // The pair went with the container's network namespace.
    if ran.code == 0 {
        wait_until("the pair to go", Duration::from_secs(10), || {
            !Path::new(&format!("/sys/class/net/{peer}")).exists()
        });
    } else {
        ip(&format!("link del {peer}"));
    }
    let out = ran.ok();
    assert!(
        out.contains("169.254.77.1/24") && !out.contains("169.254.78.1"),
        "{out}"
    );
    assert!(out.contains("mtu 1400") && out.contains("UP"), "{out}");
    let error = rrun.run(&bundle).fails();
    assert!(error.contains(&host), "{error}");
}

#[test]
fn exec_joins_a_cgroup_below_the_container_s() {
    require!(Need::Root);
    let rrun = Runtime::new();
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = rrun.start(&bundle);
    let record = std::fs::read_to_string(rrun.root().join(&id).join("state.json")).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    let paths = &record["cgroup_paths"];
    let (prefix, own) = match paths["pids"].as_str() {
        Some(own) => ("pids:", own),
        None => ("", paths[""].as_str().unwrap()),
    };
    std::fs::create_dir(Path::new(own).join("inner")).unwrap();
    let exec =
        |cgroup: &str| rrun.rrun(&["exec", "--cgroup", cgroup, &id, "cat", "/proc/self/cgroup"]);
    let shown = exec(&format!("{prefix}inner")).ok();
    assert!(shown.contains(&format!("{id}/inner\n")), "{shown}");
    assert!(!exec("/").ok().contains("inner"));
    for (wrong, why) in [
        ("..", "bad sub cgroup path"),
        ("nothing", "adding pid"),
        ("nothing:inner", "unknown controller"),
        (":inner", "empty <controller>"),
    ] {
        let error = exec(wrong).fails();
        assert!(error.contains(why), "{wrong}: {error}");
    }
}

#[test]
fn writable_cgroup_belongs_to_the_user_of_the_container() {
    require!(Need::Root, Need::CgroupV2);
    let rrun = Runtime::new();
    let mut bundle = shell(
        "stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/own",
    );
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["type"] != "cgroup");
    add_mount(
        &mut bundle,
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}),
    );
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    if !namespaces.iter().any(|n| n["type"] == "cgroup") {
        namespaces.push(json!({"type": "cgroup"}));
    }
    bundle.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    assert_eq!(rrun.run(&bundle).ok(), "5\n5\n0\n");
}
