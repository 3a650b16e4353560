//! The CRI's view of a container, made from the pod and what was prepared for it.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use rrun_cri_api::v1 as cri;

use super::dirs::Dirs;
use super::{env, names, security};
use crate::resources::Resources;

/// What was prepared for a container.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How often it was started before.
    pub restarts: u32,
    /// The image as the store names it.
    pub image_ref: String,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its volumes and files.
    pub mounts: Vec<cri::Mount>,
    /// The host's file for its termination message.
    pub message_file: &'a Path,
    /// What the node has.
    pub node: &'a Resources,
}

/// Where a termination message is written unless the container says otherwise.
pub const MESSAGE_PATH: &str = "/dev/termination-log";

/// The request's config.
pub fn config(prepared: &Prepared) -> cri::ContainerConfig {
    let container = prepared.container;
    let name = container.name.clone();
    let mut labels = names::pod_labels(prepared.pod);
    labels.insert(names::CONTAINER_NAME.to_owned(), name.clone());
    let asked = container.image.clone().unwrap_or_default();
    let envs = prepared.env.iter().map(|(key, value)| cri::KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes(),
    });
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.clone(),
            attempt: prepared.restarts,
        }),
        image: Some(cri::ImageSpec {
            image: prepared.image_ref.clone(),
            user_specified_image: asked,
            ..cri::ImageSpec::default()
        }),
        command: env::expand_all(container.command.as_ref(), &prepared.env),
        args: env::expand_all(container.args.as_ref(), &prepared.env),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts: prepared.mounts.clone(),
        labels,
        annotations: annotations(prepared),
        log_path: Dirs::log_file(&name, prepared.restarts),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(security::linux(prepared.pod, container, prepared.node)),
        stop_signal: stop_signal(container),
        ..cri::ContainerConfig::default()
    }
}

fn stop_signal(container: &Container) -> i32 {
    let own = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.as_deref());
    own.and_then(cri::Signal::from_str_name)
        .unwrap_or_default()
        .into()
}

fn annotations(prepared: &Prepared) -> HashMap<String, String> {
    let container = prepared.container;
    let path = container
        .termination_message_path
        .as_deref()
        .unwrap_or(MESSAGE_PATH);
    let policy = container
        .termination_message_policy
        .as_deref()
        .unwrap_or("File");
    let pairs = [
        (names::HASH, names::container_hash(container)),
        (names::RESTARTS, prepared.restarts.to_string()),
        (names::MESSAGE_PATH, path.to_owned()),
        (names::MESSAGE_POLICY, policy.to_owned()),
        (
            names::MESSAGE_FILE,
            prepared.message_file.to_string_lossy().into_owned(),
        ),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}
