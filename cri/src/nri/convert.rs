//! Pods and containers as plugins see them.

use std::collections::BTreeMap;

use rrun_cri_api::nri;
use serde_json::Value;

use super::resources;
use crate::bundle::Limits;
use crate::store::{ContainerPhase, ContainerRecord, SandboxRecord};

/// Text of a JSON value, empty where it is none.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// An object of texts.
pub fn map(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn list<T>(value: &Value, one: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(one).collect()
}

/// A pod.
pub fn pod(record: &SandboxRecord) -> nri::PodSandbox {
    let config = record.config();
    let metadata = record.metadata();
    let linux = config.linux.clone().unwrap_or_default();
    nri::PodSandbox {
        id: record.id.clone(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: record.runtime_handler.clone(),
        linux: Some(nri::LinuxPodSandbox {
            pod_overhead: linux.overhead.as_ref().map(from_cri),
            pod_resources: linux.resources.as_ref().map(from_cri),
            cgroup_parent: record.cgroup_parent.clone(),
            ..Default::default()
        }),
        ips: record.ips.clone(),
        ..Default::default()
    }
}

/// CRI's resources; zero is unset there.
pub fn from_cri(asked: &rrun_cri_api::v1::LinuxContainerResources) -> nri::LinuxResources {
    // Plugins see what was asked for, swap as it was said.
    let limits = Limits {
        swap: false,
        hugetlb: true,
    };
    resources::from_spec(&crate::bundle::resources(asked, limits))
}

/// A container, with what its config.json says.
pub fn container(record: &ContainerRecord, spec: &Value) -> nri::Container {
    let config = record.config();
    nri::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        name: record.metadata().name,
        state: state(record) as i32,
        labels: config.labels.clone().into_iter().collect(),
        annotations: map(&spec["annotations"]),
        args: texts(&spec["process"]["args"]),
        env: texts(&spec["process"]["env"]),
        mounts: list(&spec["mounts"], |m| nri::Mount {
            destination: text(&m["destination"]),
            r#type: text(&m["type"]),
            source: text(&m["source"]),
            options: texts(&m["options"]),
        }),
        hooks: Some(hooks(&spec["hooks"])),
        linux: Some(linux(spec)),
        pid: record.pid,
        rlimits: list(&spec["process"]["rlimits"], |r| nri::PosixRlimit {
            r#type: text(&r["type"]),
            hard: r["hard"].as_u64().unwrap_or_default(),
            soft: r["soft"].as_u64().unwrap_or_default(),
        }),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        status_reason: record.reason.clone(),
        status_message: record.message.clone(),
        user: record.user.as_ref().map(|user| nri::User {
            uid: user.uid as u32,
            gid: user.gid as u32,
            additional_gids: user.supplemental_groups.iter().map(|g| *g as u32).collect(),
        }),
        image: Some(nri::Image {
            name: config.image.clone().unwrap_or_default().image,
            digest: record
                .image_ref
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .to_owned(),
            config_digest: record.image_id.clone(),
        }),
        ..Default::default()
    }
}

fn state(record: &ContainerRecord) -> nri::ContainerState {
    match record.phase() {
        ContainerPhase::Creating | ContainerPhase::Created | ContainerPhase::Starting => {
            nri::ContainerState::ContainerCreated
        }
        ContainerPhase::Running => nri::ContainerState::ContainerRunning,
        ContainerPhase::Exited | ContainerPhase::Removing => nri::ContainerState::ContainerStopped,
        ContainerPhase::Unknown => nri::ContainerState::ContainerUnknown,
    }
}

fn hooks(spec: &Value) -> nri::Hooks {
    let of = |kind: &str| {
        list(&spec[kind], |hook| nri::Hook {
            path: text(&hook["path"]),
            args: texts(&hook["args"]),
            env: texts(&hook["env"]),
            timeout: hook["timeout"]
                .as_i64()
                .map(|value| nri::OptionalInt { value }),
        })
    };
    nri::Hooks {
        prestart: of("prestart"),
        create_runtime: of("createRuntime"),
        create_container: of("createContainer"),
        start_container: of("startContainer"),
        poststart: of("poststart"),
        poststop: of("poststop"),
    }
}

fn linux(spec: &Value) -> nri::LinuxContainer {
    let linux = &spec["linux"];
    let number = |v: &Value| {
        v.as_u64().map(|value| nri::OptionalUInt32 {
            value: value as u32,
        })
    };
    let score = spec["process"]["oomScoreAdj"].as_i64();
    nri::LinuxContainer {
        namespaces: list(&linux["namespaces"], |n| nri::LinuxNamespace {
            r#type: text(&n["type"]),
            path: text(&n["path"]),
        }),
        devices: list(&linux["devices"], |d| nri::LinuxDevice {
            path: text(&d["path"]),
            r#type: text(&d["type"]),
            major: d["major"].as_i64().unwrap_or_default(),
            minor: d["minor"].as_i64().unwrap_or_default(),
            file_mode: d["fileMode"].as_u64().map(|value| nri::OptionalFileMode {
                value: value as u32,
            }),
            uid: number(&d["uid"]),
            gid: number(&d["gid"]),
        }),
        resources: Some(resources::from_spec(&linux["resources"])),
        oom_score_adj: score.map(|value| nri::OptionalInt { value }),
        cgroups_path: text(&linux["cgroupsPath"]),
        sysctl: map(&linux["sysctl"]),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_is_told_as_config_json_has_it() {
        let record = ContainerRecord {
            id: "c".into(),
            phase: ContainerPhase::Creating as i32,
            image_ref: "r/i@sha256:d".into(),
            ..Default::default()
        };
        let spec = json!({
            "process": {"args": ["a", "b"], "env": ["K=v"], "oomScoreAdj": 7},
            "mounts": [{"destination": "/m", "type": "bind", "source": "/s", "options": ["ro"]}],
            "annotations": {"k": "v"},
            "linux": {"cgroupsPath": "/c", "resources": {"cpu": {"shares": 5}},
                "namespaces": [{"type": "pid", "path": "/p"}]},
        });
        let told = container(&record, &spec);
        assert_eq!(told.args, ["a", "b"]);
        assert_eq!(told.mounts[0].source, "/s");
        assert_eq!(told.annotations["k"], "v");
        assert_eq!(told.image.unwrap().digest, "sha256:d");
        let linux = told.linux.unwrap();
        assert_eq!(linux.oom_score_adj.unwrap().value, 7);
        assert_eq!(linux.namespaces[0].path, "/p");
        let cpu = linux.resources.unwrap().cpu.unwrap();
        assert_eq!(cpu.shares.unwrap().value, 5);
    }
}
