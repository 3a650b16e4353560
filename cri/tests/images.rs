//! Images from a registry: how far a pull is, and checkpoints in them.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kit::Cri;
use rrun_cri_api::v1;
use rrun_cri_api::v1::image_service_client::ImageServiceClient;
use rrun_images::Digest;
use rrun_tests::{Need, require};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry with one image of one layer, the second half of which it holds back until released.
struct Registry {
    host: String,
    released: Arc<(Mutex<bool>, Condvar)>,
}

struct Content {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, name, *data).unwrap();
    }
    tar.into_inner().unwrap()
}

impl Content {
    fn new(layer: Vec<u8>, annotations: Value) -> Self {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
        let config = config.to_string().into_bytes();
        let blob = |kind: &str, blob: &[u8]| {
            let kind = format!("application/vnd.oci.image.{kind}");
            json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
        };
        let manifest = json!({"schemaVersion": 2, "mediaType": INDEX,
            "config": blob("config.v1+json", &config), "layers": [blob("layer.v1.tar", &layer)],
            "annotations": annotations});
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

impl Registry {
    fn start(content: Content) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let released = Arc::new((Mutex::new(false), Condvar::new()));
        let content = Arc::new(content);
        let gate = released.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (content, gate) = (content.clone(), gate.clone());
                // A client that breaks off is its own affair.
                std::thread::spawn(move || serve(stream, &content, &gate).ok());
            }
        });
        Self { host, released }
    }

    fn release(&self) {
        *self.released.0.lock().unwrap() = true;
        self.released.1.notify_all();
    }
}

fn serve(
    mut stream: TcpStream,
    content: &Content,
    gate: &(Mutex<bool>, Condvar),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (kind, body) = match path {
        path if path.contains("/manifests/") => (INDEX, &content.manifest[..]),
        path if path.ends_with(&digest(&content.config)) => {
            ("application/json", &content.config[..])
        }
        path if path.ends_with(&digest(&content.layer)) => {
            ("application/x-tar", &content.layer[..])
        }
        _ => ("text/plain", &b""[..]),
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if head.starts_with("HEAD") {
        return Ok(());
    }
    let (now, later) = body.split_at(body.len() / 2);
    stream.write_all(now)?;
    if body == content.layer {
        let released = gate.0.lock().unwrap();
        drop(gate.1.wait_while(released, |released| !*released).unwrap());
    }
    stream.write_all(later)
}

async fn pulls(client: &mut kit::Client) -> Vec<Value> {
    let request = v1::StatusRequest { verbose: true };
    let status = client.status(request).await.unwrap().into_inner();
    serde_json::from_str(&status.info["pulls"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_under_way_says_how_far_it_is() {
    require!(Need::Root);
    let layer = archive(&[("file", &vec![7; 3 << 20])]);
    let (registry, cri) = (
        Registry::start(Content::new(layer, json!({}))),
        Cri::start(),
    );
    let mut client = cri.client().await;
    let image = Some(v1::ImageSpec {
        image: format!("{}/held/back:1", registry.host),
        ..Default::default()
    });
    let mut images = ImageServiceClient::new(cri.channel().await);
    let mut puller = images.clone();
    let request = v1::PullImageRequest {
        image: image.clone(),
        ..Default::default()
    };
    let pull = tokio::spawn(async move { puller.pull_image(request).await });
    let end = tokio::time::Instant::now() + kit::patience();
    let told = loop {
        if let Some(pull) = pulls(&mut client).await.pop()
            && pull["bytes"].as_u64() > Some(0)
        {
            break pull;
        }
        assert!(tokio::time::Instant::now() < end, "no progress");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(told["bytes"].as_u64() < told["size"].as_u64(), "{told}");
    assert_eq!(told["layers"][0]["state"], "pulling");
    let request = v1::ImageStatusRequest {
        image,
        verbose: true,
    };
    let status = images.image_status(request).await.unwrap().into_inner();
    assert!(status.image.is_none());
    assert!(status.info["pull"].contains("\"state\":\"pulling\""));
    let socket = format!("unix://{}", cri.path("cri.sock").display());
    let ask = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rrun-cri"));
        let programs = ["--runtime", "/bin/sh", "--shim", "/bin/sh"];
        command
            .args(["pulls", "--listen", &socket])
            .args(programs)
            .args(flags);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = ask(&[]);
    assert!(table.contains("/held/back:1  0/1 "), "{table}");
    registry.release();
    pull.await.unwrap().unwrap();
    assert!(pulls(&mut client).await.is_empty());
    assert_eq!(ask(&["--json"]), "[]\n");
}

/// As CRI-O has them; of what a hostile image brings, a list of images still holds its share.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_the_annotations_of_its_manifest() {
    require!(Need::Root);
    let huge = "x".repeat(1 << 20);
    let annotations = json!({"org.opencontainers.image.version": "1.2", "zz.huge": huge});
    let layer = archive(&[("file", b"content")]);
    let registry = Registry::start(Content::new(layer, annotations));
    registry.release();
    let cri = Cri::start();
    let mut images = ImageServiceClient::new(cri.channel().await);
    let image = v1::ImageSpec {
        image: format!("{}/noted:1", registry.host),
        ..Default::default()
    };
    let request = v1::PullImageRequest {
        image: Some(image.clone()),
        ..Default::default()
    };
    images.pull_image(request).await.unwrap();
    let request = v1::ImageStatusRequest {
        image: Some(image.clone()),
        verbose: false,
    };
    let status = images.image_status(request).await.unwrap().into_inner();
    let filter = v1::ImageFilter { image: Some(image) };
    let request = v1::ListImagesRequest {
        filter: Some(filter),
    };
    let list = images.list_images(request).await.unwrap().into_inner();
    let expected = ("org.opencontainers.image.version".into(), "1.2".into());
    for shown in list.images.into_iter().chain(status.image) {
        assert_eq!(shown.spec.unwrap().annotations, [expected.clone()].into());
    }
}

/// As containerd and CRI-O have it: the archive's files in a layer, an annotation in the manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_in_an_image_becomes_a_container_of_the_image_it_stands_on() {
    require!(Need::Root);
    let folded = |base: &str| {
        let about = json!({"rootfsImageName": base}).to_string();
        let layer = archive(&[
            ("config.dump", about.as_bytes()),
            ("spec.dump", b"{}"),
            ("checkpoint/core-1.img", b"core"),
            ("rootfs-diff.tar", &archive(&[("note", b"kept")])),
        ]);
        let annotations = json!({"org.criu.checkpoint.container.name": "x"});
        let registry = Registry::start(Content::new(layer, annotations));
        registry.release();
        registry
    };
    let (registry, other) = (folded(kit::IMAGE), folded("localhost/nowhere:1"));
    let cri = Cri::start();
    let mut client = cri.client().await;
    let mut images = ImageServiceClient::new(cri.channel().await);
    let pod = cri.run_pod(&mut client, "folded").await;
    let mut made = Vec::new();
    for host in [&registry.host, &other.host] {
        let image = v1::ImageSpec {
            image: format!("{host}/folded:1"),
            ..Default::default()
        };
        let request = v1::PullImageRequest {
            image: Some(image.clone()),
            ..Default::default()
        };
        images.pull_image(request).await.unwrap();
        let mut config = kit::script("main", "true");
        config.image = Some(image);
        made.push(kit::create(&mut client, &pod, config).await);
        if let Some(Ok(id)) = made.last() {
            let dir = cri.path("root/containers").join(id);
            let core = std::fs::read(dir.join("checkpoint/core-1.img")).unwrap();
            assert_eq!(core, b"core");
            assert_eq!(std::fs::read(dir.join("upper/note")).unwrap(), b"kept");
            assert!(!dir.join("from-image").exists());
            let request = v1::RemoveContainerRequest {
                container_id: id.clone(),
            };
            client.remove_container(request).await.unwrap();
        }
    }
    assert!(made[0].is_ok(), "{:?}", made[0]);
    let error = made[1].as_ref().unwrap_err().message();
    assert!(
        error.contains("needs the image localhost/nowhere:1: pull it first"),
        "{error}"
    );
    kit::remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

/// A kubelet tells the pod's owner `SignatureValidationFailed` where the message starts with that
/// word, which it sees of errors of the code Unknown only.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_policy_rejects_is_said_so_in_the_kubelets_word() {
    require!(Need::Root);
    let layer = archive(&[("file", b"1")]);
    let registry = Registry::start(Content::new(layer, json!({})));
    let dir = tempfile::tempdir().unwrap();
    registry.release();
    let policy = dir.path().join("policy.json");
    let scopes = json!({format!("{}/bad", registry.host): [{"type": "reject"}]});
    let text = json!({"default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": scopes}});
    std::fs::write(&policy, text.to_string()).unwrap();
    let cri = Cri::start_with(&format!("[images]\npolicy = {:?}\n", policy.display()));
    let mut images = ImageServiceClient::new(cri.channel().await);
    let mut pull = async |repository: &str| {
        let image = format!("{}/{repository}/app:1", registry.host);
        let spec = v1::ImageSpec {
            image,
            ..Default::default()
        };
        let request = v1::PullImageRequest {
            image: Some(spec),
            ..Default::default()
        };
        images.pull_image(request).await
    };
    let refused = pull("bad").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unknown);
    let message = refused.message();
    assert!(
        message.starts_with("SignatureValidationFailed: "),
        "{message}"
    );
    assert!(message.contains("/bad/app"), "{message}");
    pull("good").await.unwrap();
}

/// What a test that failed left mounted of an image store.
struct Mounts(std::path::PathBuf);

impl Mounts {
    fn points(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = self.0.to_str().unwrap();
        points
            .filter(|p| p.starts_with(below))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for point in self.points() {
            let _ = Command::new("umount").args(["-l", &point]).status();
        }
    }
}

#[tokio::test]
async fn containers_stand_on_erofs_images_that_are_unmounted_with_them() {
    require!(Need::Root, Need::Path("/dev/loop-control"));
    let known = Command::new("sh")
        .args(["-c", "grep -qw erofs /proc/filesystems || modprobe erofs"])
        .output();
    if !known.is_ok_and(|output| output.status.success()) {
        rrun_tests::report_skip(module_path!(), "needs a kernel with erofs");
        return;
    }
    let mut cri = Cri::start_with("[images]\nsnapshotter = \"erofs\"\n");
    let mounts = Mounts(cri.path("images"));
    let mut client = cri.client().await;
    let pod = cri.run_pod(&mut client, "erofs").await;
    let sleep = "exec sleep 1000";
    let one = kit::run(&mut client, &pod, kit::script("one", sleep)).await;
    assert_eq!(mounts.points().len(), 1);
    cri.kill();
    cri.restart();
    let mut client = cri.client().await;
    let two = kit::run(&mut client, &pod, kit::script("two", sleep)).await;
    for id in [&one, &two] {
        let said = kit::exec(&mut client, id, "echo more > /new; cat /new; id -G").await;
        assert_eq!(said.stdout, b"more\n0 50000\n", "{said:?}");
        kit::stop(&mut client, id, 0).await;
    }
    kit::remove_pod(&mut client, &pod.0).await;
    // The layer stays mounted for the next container; it goes with its image.
    let layer = mounts.points().pop().unwrap();
    let left = cri.leftovers();
    assert!(left.iter().all(|l| l.contains(&layer)), "{left:?}");
    let image = v1::ImageSpec {
        image: kit::IMAGE.into(),
        ..Default::default()
    };
    let request = v1::RemoveImageRequest { image: Some(image) };
    let mut images = ImageServiceClient::new(cri.channel().await);
    images.remove_image(request).await.unwrap();
    assert_eq!(mounts.points(), Vec::<String>::new());
}
