//! What a plugin wants changed of a container that is being created, put into its config.json. A
//! name that starts with a dash removes what it names.

use anyhow::{Result, bail};
use nri::Field;
use rrun_cri_api::nri;
use serde_json::{Value, json};

use super::owners::Owners;
use super::resources;
use crate::bundle::list;

/// Puts one plugin's adjustment into a config.json.
pub fn apply(
    asked: &nri::ContainerAdjustment,
    spec: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    map(
        Field::Annotations,
        &asked.annotations,
        &mut spec["annotations"],
        owners,
        plugin,
    )?;
    mounts(&asked.mounts, spec, owners, plugin)?;
    env(&asked.env, &mut spec["process"], owners, plugin)?;
    args(&asked.args, spec, owners, plugin)?;
    if let Some(asked) = &asked.hooks {
        hooks(asked, &mut spec["hooks"]);
        if spec["hooks"].is_null() {
            drop(spec.as_object_mut().and_then(|spec| spec.remove("hooks")));
        }
    }
    for limit in &asked.rlimits {
        owners.claim(Field::Rlimits, &limit.r#type, plugin)?;
        let limits = list(&mut spec["process"], "rlimits");
        limits.retain(|l| l["type"] != limit.r#type.as_str());
        limits.push(json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft}));
    }
    for device in &asked.cdi_devices {
        owners.claim(Field::CdiDevices, &device.name, plugin)?;
    }
    match &asked.linux {
        Some(asked) => linux(asked, spec, owners, plugin),
        None => Ok(()),
    }
}

/// The name without the dash, where it has one.
fn removed(name: &str) -> Option<&str> {
    name.strip_prefix('-').filter(|name| !name.is_empty())
}

fn map<'a>(
    field: Field,
    asked: impl IntoIterator<Item = (&'a String, &'a String)> + Clone,
    target: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    for (key, _) in asked.clone() {
        if let Some(key) = removed(key) {
            owners.clear(field, key);
            drop(target.as_object_mut().and_then(|map| map.remove(key)));
        }
    }
    for (key, value) in asked {
        if removed(key).is_none() {
            owners.claim(field, key, plugin)?;
            target[key] = json!(value);
        }
    }
    Ok(())
}

fn mounts(asked: &[nri::Mount], spec: &mut Value, owners: &mut Owners, plugin: &str) -> Result<()> {
    let all = list(spec, "mounts");
    for mount in asked {
        let name = removed(&mount.destination).unwrap_or(&mount.destination);
        if !name.starts_with('/') || name == "/" {
            bail!("NRI plugin {plugin} asks for a mount on {name:?}");
        }
        all.retain(|m| m["destination"] != name);
        if removed(&mount.destination).is_some() {
            owners.clear(Field::Mounts, name);
        }
    }
    for mount in asked.iter().filter(|m| removed(&m.destination).is_none()) {
        owners.claim(Field::Mounts, &mount.destination, plugin)?;
        all.push(json!({
            "destination": mount.destination, "type": mount.r#type, "source": mount.source,
            "options": mount.options,
        }));
    }
    Ok(())
}

fn env(
    asked: &[nri::KeyValue],
    process: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    let all = list(process, "env");
    let is = |entry: &Value, key: &str| {
        let rest = entry.as_str().and_then(|e| e.strip_prefix(key));
        rest.is_some_and(|rest| rest.starts_with('='))
    };
    for key in asked.iter().filter_map(|e| removed(&e.key)) {
        owners.clear(Field::Env, key);
        all.retain(|entry| !is(entry, key));
    }
    for pair in asked.iter().filter(|e| removed(&e.key).is_none()) {
        owners.claim(Field::Env, &pair.key, plugin)?;
        let value = json!(format!("{}={}", pair.key, pair.value));
        match all.iter_mut().find(|entry| is(entry, &pair.key)) {
            Some(entry) => *entry = value,
            None => all.push(value),
        }
    }
    Ok(())
}

/// An empty first argument says that another plugin's are to be replaced.
fn args(asked: &[String], spec: &mut Value, owners: &mut Owners, plugin: &str) -> Result<()> {
    let mut asked = asked;
    if let [first, rest @ ..] = asked
        && first.is_empty()
    {
        owners.clear(Field::Args, "");
        asked = rest;
    }
    if !asked.is_empty() {
        owners.claim(Field::Args, "", plugin)?;
        spec["process"]["args"] = json!(asked);
    }
    Ok(())
}

fn hooks(asked: &nri::Hooks, spec: &mut Value) {
    for (kind, hooks) in [
        ("prestart", &asked.prestart),
        ("createRuntime", &asked.create_runtime),
        ("createContainer", &asked.create_container),
        ("startContainer", &asked.start_container),
        ("poststart", &asked.poststart),
        ("poststop", &asked.poststop),
    ] {
        for hook in hooks {
            let mut json = json!({"path": hook.path, "args": hook.args, "env": hook.env});
            if let Some(timeout) = &hook.timeout {
                json["timeout"] = json!(timeout.value);
            }
            list(spec, kind).push(json);
        }
    }
}

fn linux(
    asked: &nri::LinuxContainerAdjustment,
    spec: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    devices(&asked.devices, &mut spec["linux"], owners, plugin)?;
    namespaces(&asked.namespaces, &mut spec["linux"], owners, plugin)?;
    if let Some(resources) = &asked.resources {
        resources::apply(resources, &mut spec["linux"]["resources"], owners, plugin)?;
    }
    if !asked.sysctl.is_empty() {
        map(
            Field::Sysctl,
            &asked.sysctl,
            &mut spec["linux"]["sysctl"],
            owners,
            plugin,
        )?;
    }
    if !asked.cgroups_path.is_empty() {
        owners.claim(Field::CgroupsPath, "", plugin)?;
        spec["linux"]["cgroupsPath"] = json!(asked.cgroups_path);
    }
    if let Some(score) = &asked.oom_score_adj {
        owners.claim(Field::OomScoreAdj, "", plugin)?;
        spec["process"]["oomScoreAdj"] = json!(score.value);
    }
    for (device, named) in &asked.net_devices {
        let devices = &mut spec["linux"]["netDevices"];
        if let Some(device) = removed(device) {
            owners.clear(Field::LinuxNetDevices, device);
            drop(devices.as_object_mut().and_then(|map| map.remove(device)));
        } else {
            owners.claim(Field::LinuxNetDevices, device, plugin)?;
            devices[device] = json!({"name": named.name});
        }
    }
    if let Some(policy) = &asked.seccomp_policy {
        owners.claim(Field::SeccompPolicy, "", plugin)?;
        spec["linux"]["seccomp"] = seccomp(policy);
    }
    process(asked, spec, owners, plugin)
}

/// What the kernel keeps per process: scheduling, IO priority, memory policy, RDT.
fn process(
    asked: &nri::LinuxContainerAdjustment,
    spec: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    if let Some(priority) = &asked.io_priority {
        owners.claim(Field::IoPriority, "", plugin)?;
        let class = priority.class().as_str_name();
        spec["process"]["ioPriority"] = json!({"class": class, "priority": priority.priority});
    }
    if let Some(scheduler) = &asked.scheduler {
        owners.claim(Field::LinuxSched, "", plugin)?;
        let flags: Vec<_> = scheduler.flags().map(|f| f.as_str_name()).collect();
        spec["process"]["scheduler"] = json!({
            "policy": scheduler.policy().as_str_name(), "nice": scheduler.nice,
            "priority": scheduler.priority, "flags": flags, "runtime": scheduler.runtime,
            "deadline": scheduler.deadline, "period": scheduler.period,
        });
    }
    if let Some(policy) = &asked.memory_policy {
        owners.claim(Field::MemoryPolicy, "", plugin)?;
        let flags: Vec<_> = policy.flags().map(|f| f.as_str_name()).collect();
        spec["linux"]["memoryPolicy"] = json!({
            "mode": policy.mode().as_str_name(), "nodes": policy.nodes, "flags": flags,
        });
    }
    let Some(rdt) = &asked.rdt else {
        return Ok(());
    };
    for field in [
        Field::RdtClosId,
        Field::RdtSchemata,
        Field::RdtEnableMonitoring,
    ] {
        if rdt.remove {
            owners.clear(field, "");
        }
        owners.claim(field, "", plugin)?;
    }
    if rdt.remove {
        drop(
            spec["linux"]
                .as_object_mut()
                .and_then(|linux| linux.remove("intelRdt")),
        );
    }
    let linux = &mut spec["linux"];
    if let Some(id) = &rdt.clos_id {
        linux["intelRdt"]["closID"] = json!(id.value);
    }
    if let Some(schemata) = &rdt.schemata {
        linux["intelRdt"]["schemata"] = json!(schemata.value);
    }
    if let Some(monitor) = &rdt.enable_monitoring {
        linux["intelRdt"]["enableMonitoring"] = json!(monitor.value);
    }
    Ok(())
}

/// A node of the machine, and leave to use it.
fn devices(
    asked: &[nri::LinuxDevice],
    linux: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    for device in asked {
        let path = removed(&device.path).unwrap_or(&device.path);
        list(linux, "devices").retain(|d| d["path"] != path);
        if removed(&device.path).is_some() {
            owners.clear(Field::Devices, path);
        }
    }
    for device in asked.iter().filter(|d| removed(&d.path).is_none()) {
        owners.claim(Field::Devices, &device.path, plugin)?;
        let mut json = json!({
            "path": device.path, "type": device.r#type, "major": device.major,
            "minor": device.minor,
        });
        if let Some(mode) = &device.file_mode {
            json["fileMode"] = json!(mode.value);
        }
        for (key, id) in [("uid", &device.uid), ("gid", &device.gid)] {
            if let Some(id) = id {
                json[key] = json!(id.value);
            }
        }
        list(linux, "devices").push(json);
        list(&mut linux["resources"], "devices").push(json!({
            "allow": true, "type": device.r#type, "major": device.major, "minor": device.minor,
            "access": "rwm",
        }));
    }
    Ok(())
}

fn namespaces(
    asked: &[nri::LinuxNamespace],
    linux: &mut Value,
    owners: &mut Owners,
    plugin: &str,
) -> Result<()> {
    for namespace in asked {
        let kind = removed(&namespace.r#type).unwrap_or(&namespace.r#type);
        let all = list(linux, "namespaces");
        all.retain(|n| n["type"] != kind);
        if removed(&namespace.r#type).is_some() {
            owners.clear(Field::Namespace, kind);
            continue;
        }
        owners.claim(Field::Namespace, kind, plugin)?;
        let mut json = json!({"type": kind});
        if !namespace.path.is_empty() {
            json["path"] = json!(namespace.path);
        }
        all.push(json);
    }
    Ok(())
}

fn seccomp(policy: &nri::LinuxSeccomp) -> Value {
    let calls = policy.syscalls.iter().map(|call| {
        let args: Vec<_> = call
            .args
            .iter()
            .map(|a| json!({"index": a.index, "value": a.value, "valueTwo": a.value_two, "op": a.op}))
            .collect();
        let mut json = json!({"names": call.names, "action": call.action, "args": args});
        if let Some(errno) = &call.errno_ret {
            json["errnoRet"] = json!(errno.value);
        }
        json
    });
    let mut json = json!({
        "defaultAction": policy.default_action, "architectures": policy.architectures,
        "flags": policy.flags, "syscalls": calls.collect::<Vec<_>>(),
    });
    if let Some(errno) = &policy.default_errno {
        json["defaultErrnoRet"] = json!(errno.value);
    }
    for (key, value) in [
        ("listenerPath", &policy.listener_path),
        ("listenerMetadata", &policy.listener_metadata),
    ] {
        if !value.is_empty() {
            json[key] = json!(value);
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Value {
        json!({
            "process": {"args": ["old"], "env": ["A=1", "AB=2"]},
            "mounts": [{"destination": "/m"}, {"destination": "/n"}],
            "annotations": {"k": "v"},
            "linux": {"resources": {"devices": []}, "namespaces": [{"type": "pid"}]},
        })
    }

    fn pair(key: &str, value: &str) -> nri::KeyValue {
        nri::KeyValue {
            key: key.into(),
            value: value.into(),
        }
    }

    #[test]
    fn values_are_replaced_added_and_removed() {
        let asked = nri::ContainerAdjustment {
            annotations: [("-k".into(), String::new()), ("new".into(), "1".into())].into(),
            env: vec![pair("A", "x"), pair("C", "3"), pair("-AB", "")],
            mounts: vec![
                nri::Mount {
                    destination: "-/m".into(),
                    ..Default::default()
                },
                nri::Mount {
                    destination: "/n".into(),
                    source: "/s".into(),
                    ..Default::default()
                },
            ],
            args: vec!["new".into()],
            ..Default::default()
        };
        let mut spec = spec();
        apply(&asked, &mut spec, &mut Owners::default(), "00-a").unwrap();
        assert_eq!(spec["process"]["env"], json!(["A=x", "C=3"]));
        assert_eq!(spec["annotations"], json!({"new": "1"}));
        assert_eq!(spec["process"]["args"], json!(["new"]));
        let mounts = spec["mounts"].as_array().unwrap();
        assert_eq!((mounts.len(), &mounts[0]["source"]), (1, &json!("/s")));
        assert!(spec.get("hooks").is_none());
    }

    #[test]
    fn a_device_may_be_used_once_it_is_there() {
        let asked = nri::ContainerAdjustment {
            linux: Some(nri::LinuxContainerAdjustment {
                devices: vec![nri::LinuxDevice {
                    path: "/dev/x".into(),
                    r#type: "c".into(),
                    major: 1,
                    minor: 3,
                    ..Default::default()
                }],
                namespaces: vec![nri::LinuxNamespace {
                    r#type: "-pid".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut spec = spec();
        apply(&asked, &mut spec, &mut Owners::default(), "00-a").unwrap();
        assert_eq!(spec["linux"]["devices"][0]["path"], "/dev/x");
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
        assert_eq!(spec["linux"]["namespaces"], json!([]));
    }

    #[test]
    fn two_plugins_that_set_the_same_variable_conflict() {
        let asked = nri::ContainerAdjustment {
            env: vec![pair("A", "x")],
            ..Default::default()
        };
        let (mut spec, mut owners) = (spec(), Owners::default());
        apply(&asked, &mut spec, &mut owners, "00-a").unwrap();
        let error = apply(&asked, &mut spec, &mut owners, "10-b").unwrap_err();
        assert!(error.to_string().contains("00-a and 10-b"), "{error}");
        let replace = nri::ContainerAdjustment {
            env: vec![pair("-A", ""), pair("A", "y")],
            ..Default::default()
        };
        apply(&replace, &mut spec, &mut owners, "10-b").unwrap();
        assert_eq!(spec["process"]["env"], json!(["AB=2", "A=y"]));
    }

    #[test]
    fn the_root_is_nobody_elses_mount() {
        for destination in ["/", "-/", "relative", ""] {
            let asked = nri::ContainerAdjustment {
                mounts: vec![nri::Mount {
                    destination: destination.into(),
                    ..Default::default()
                }],
                ..Default::default()
            };
            let result = apply(&asked, &mut spec(), &mut Owners::default(), "00-a");
            assert!(result.is_err(), "{destination:?}");
        }
    }
}
