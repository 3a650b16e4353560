//! An NRI plugin that connects: what it asks for is what the container gets, and it misses nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{Cri, create, exec, remove_pod, run, script, start};
use rrun_cri_api::{nri, v1};
use rrun_task_api::frame::{self, Kind};
use rrun_task_api::pb::ttrpc::Request;
use rrun_task_api::prost::Message;
use rrun_tests::{Need, require, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Emulated machines take their time.
const PATIENT: &str = "[nri]\nrequest_timeout = \"1m\"\nsynchronize_timeout = \"1m\"\nregistration_timeout = \"1m\"\n";

type Answer = dyn Fn(&str, &[u8]) -> Vec<u8> + Send + Sync;

/// A plugin that registers, answers by a function, and keeps what it was called for.
struct Plugin(Arc<Mutex<Vec<String>>>);

impl Plugin {
    async fn connect(cri: &Cri, slow: Duration, answer: Arc<Answer>) -> Self {
        let mut stream = UnixStream::connect(cri.path("state/nri.sock"))
            .await
            .unwrap();
        let register = nri::RegisterPluginRequest {
            plugin_name: "test".into(),
            plugin_idx: "10".into(),
            ..Default::default()
        };
        let request = Request {
            service: "nri.pkg.api.v1alpha1.Runtime".into(),
            method: "RegisterPlugin".into(),
            payload: register.encode_to_vec(),
            ..Default::default()
        };
        send(&mut stream, 2, &frame::request(1, &request).unwrap()).await;
        let called = Arc::new(Mutex::new(Vec::new()));
        let calls = called.clone();
        tokio::spawn(async move {
            let mut buffers = [Vec::new(), Vec::new()];
            while let Ok(connection) = stream.read_u32().await {
                let mut payload = vec![0; stream.read_u32().await.unwrap() as usize];
                stream.read_exact(&mut payload).await.unwrap();
                let buffer = &mut buffers[connection as usize - 1];
                buffer.extend(payload);
                while let Some(one) = frame::take(buffer).unwrap() {
                    if one.kind != Kind::Request {
                        continue;
                    }
                    let request = Request::decode(&one.data[..]).unwrap();
                    if request.method == "Synchronize" {
                        calls.lock().unwrap().push("Synchronizing".to_owned());
                        tokio::time::sleep(slow).await;
                    }
                    let payload = answer(&request.method, &request.payload);
                    calls.lock().unwrap().push(named(&request));
                    send(&mut stream, 1, &frame::response(one.stream, Ok(payload))).await;
                }
            }
        });
        Self(called)
    }

    fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    async fn wait_for(&self, call: &str) {
        let end = tokio::time::Instant::now() + kit::patience();
        while !self.calls().iter().any(|c| c == call) {
            assert!(
                tokio::time::Instant::now() < end,
                "{call} of {:?}",
                self.calls()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn send(stream: &mut UnixStream, connection: u32, bytes: &[u8]) {
    stream.write_u32(connection).await.unwrap();
    stream.write_u32(bytes.len() as u32).await.unwrap();
    stream.write_all(bytes).await.unwrap();
}

/// The method, and the container's name where there is one: fields 1 and 2 are pod and container.
fn named(request: &Request) -> String {
    if ["Synchronize", "Configure", "UpdatePodSandbox"].contains(&request.method.as_str()) {
        return request.method.clone();
    }
    let told = nri::CreateContainerRequest::decode(&request.payload[..]).unwrap();
    let name = told.container.map(|c| c.name).unwrap_or_default();
    format!("{} {name}", request.method).trim_end().to_owned()
}

/// A variable, a mount and a memory limit.
fn adjust(method: &str, _: &[u8]) -> Vec<u8> {
    if method != "CreateContainer" {
        return vec![];
    }
    let adjust = nri::ContainerAdjustment {
        env: vec![nri::KeyValue {
            key: "FROM".into(),
            value: "a plugin".into(),
        }],
        mounts: vec![nri::Mount {
            destination: "/by-plugin".into(),
            r#type: "tmpfs".into(),
            source: "tmpfs".into(),
            options: vec!["size=64k".into()],
        }],
        linux: Some(nri::LinuxContainerAdjustment {
            resources: Some(nri::LinuxResources {
                memory: Some(nri::LinuxMemory {
                    limit: Some(nri::OptionalInt64 { value: 64 << 20 }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    nri::CreateContainerResponse {
        adjust: Some(adjust),
        ..Default::default()
    }
    .encode_to_vec()
}

#[tokio::test]
async fn what_a_plugin_adjusts_is_what_the_container_gets() {
    require!(Need::Root);
    let cri = Cri::start_with(PATIENT);
    let mut client = cri.client().await;
    let plugin = Plugin::connect(&cri, Duration::ZERO, Arc::new(adjust)).await;
    plugin.wait_for("Synchronize").await;
    // It is on the list once its answer has been read.
    wait_until("the plugin on the list", kit::patience(), || {
        let log = std::fs::read_to_string(cri.path("log"));
        log.is_ok_and(|text| text.contains("an NRI plugin is synchronized"))
    });
    let pod = cri.run_pod(&mut client, "nri").await;
    let id = run(&mut client, &pod, script("main", "sleep 1000")).await;
    let memory = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let command = format!("echo $FROM; grep /by-plugin /proc/mounts; {memory} 2>/dev/null");
    let seen = String::from_utf8(exec(&mut client, &id, &command).await.stdout).unwrap();
    for part in ["a plugin\n", "tmpfs /by-plugin tmpfs", "67108864"] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
    let status = kit::status(&mut client, &id).await;
    let limit = status
        .resources
        .unwrap()
        .linux
        .unwrap()
        .memory_limit_in_bytes;
    assert_eq!(limit, 64 << 20);
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.0.clone(),
        resources: Some(v1::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        }),
        ..Default::default()
    };
    client.update_pod_sandbox_resources(request).await.unwrap();
    remove_pod(&mut client, &pod.0).await;
    let calls = plugin.calls();
    let wanted = [
        "RunPodSandbox",
        "CreateContainer main",
        "PostCreateContainer main",
        "StartContainer main",
        "PostStartContainer main",
        "UpdatePodSandbox",
        "PostUpdatePodSandbox",
        "StopContainer main",
        "StopPodSandbox",
        "RemoveContainer main",
        "RemovePodSandbox",
    ];
    let events: Vec<_> = calls
        .iter()
        .filter(|c| wanted.contains(&c.as_str()))
        .collect();
    assert_eq!(events, wanted.iter().collect::<Vec<_>>());
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_made_while_a_plugin_synchronizes_is_not_lost() {
    require!(Need::Root);
    let cri = Cri::start_with(PATIENT);
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "sync").await;
    let slow = Duration::from_millis(700);
    let plugin = Plugin::connect(&cri, slow, Arc::new(|_, _| vec![])).await;
    plugin.wait_for("Synchronizing").await;
    let id = create(&mut client, &pod, script("late", "sleep 1000"))
        .await
        .unwrap();
    start(&mut client, &id).await.unwrap();
    plugin.wait_for("CreateContainer late").await;
    plugin.wait_for("StartContainer late").await;
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}
