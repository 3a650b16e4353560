//! Pods in user namespaces: their ids, their root, their files, and that nothing is left of them.
#![allow(missing_docs, clippy::unwrap_used)]

mod kit;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use kit::{Cri, exec, remove_pod, run, run_pod, script};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use rrun_cri_api::v1;
use rrun_tests::{Need, report_skip, require};

/// Id of the machine that is the pods' 0.
const HOST: u32 = 300_000;

fn mapping() -> v1::IdMapping {
    v1::IdMapping {
        host_id: HOST,
        container_id: 0,
        length: 65_536,
    }
}

fn pod(cri: &Cri, name: &str, own_network: bool, pid: v1::NamespaceMode) -> v1::PodSandboxConfig {
    let mut config = cri.pod(name, own_network);
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    let options = security.namespace_options.as_mut().unwrap();
    options.set_pid(pid);
    options.userns_options = Some(v1::UserNamespace {
        mode: v1::NamespaceMode::Pod as i32,
        uids: vec![mapping()],
        gids: vec![mapping()],
    });
    config
}

/// The layers of images can be mapped on the file system that the test works on.
fn maps_ids(cri: &Cri) -> bool {
    let overlay = statfs(cri.dir.path()).unwrap().filesystem_type() == OVERLAYFS_SUPER_MAGIC;
    if overlay {
        report_skip(
            module_path!(),
            "needs TMPDIR on a file system with id-mapped mounts",
        );
    }
    !overlay
}

#[tokio::test]
async fn the_root_of_a_pod_is_nobody_on_the_machine() {
    require!(Need::Root, Need::Network, Need::Program("nft"));
    let cri = Cri::start();
    if !maps_ids(&cri) {
        return;
    }
    let mut client = cri.client().await;
    let config = pod(&cri, "users", true, v1::NamespaceMode::Pod);
    let pod = (run_pod(&mut client, &config).await, config);
    let volume = cri.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("mine"), "data").unwrap();
    chown(volume.join("mine"), Some(7), Some(7)).unwrap();
    let mut container = script("main", "exec sleep 1000");
    let security = container
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    security.namespace_options = pod
        .1
        .linux
        .as_ref()
        .unwrap()
        .security_context
        .as_ref()
        .unwrap()
        .namespace_options
        .clone();
    container.mounts.push(v1::Mount {
        host_path: volume.display().to_string(),
        container_path: "/volume".into(),
        uid_mappings: vec![mapping()],
        gid_mappings: vec![mapping()],
        ..Default::default()
    });
    let id = run(&mut client, &pod, container).await;
    let said = exec(
        &mut client,
        &id,
        "cat /proc/self/uid_map; stat -c %u:%g / /etc/passwd /etc/hosts /dev/shm /volume/mine; \
         touch /root-file /etc/passwd /volume/new && hostname; cat /proc/1/uid_map",
    )
    .await;
    let text = String::from_utf8(said.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    let host = HOST.to_string();
    let map = ["0", host.as_str(), "65536"];
    let files = ["0:0", "0:0", "0:0", "0:0", "7:7"];
    let wanted: Vec<_> = map
        .iter()
        .chain(&files)
        .copied()
        .chain(["users"])
        .chain(map)
        .collect();
    assert_eq!(words, wanted, "{}", String::from_utf8_lossy(&said.stderr));
    let upper = cri.path(&format!("root/containers/{id}/upper"));
    assert_eq!(fs::metadata(upper.join("root-file")).unwrap().uid(), HOST);
    assert_eq!(fs::metadata(volume.join("new")).unwrap().uid(), 0);
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_with_a_user_namespace_may_be_in_the_machines_network() {
    require!(Need::Root);
    let cri = Cri::start();
    if !maps_ids(&cri) {
        return;
    }
    let mut client = cri.client().await;
    let config = pod(&cri, "hostnet", false, v1::NamespaceMode::Container);
    let pod = (run_pod(&mut client, &config).await, config);
    let id = run(&mut client, &pod, script("main", "exec sleep 1000")).await;
    let script = "readlink /proc/self/ns/net; grep '^sysfs /sys sysfs ro,' /proc/self/mounts";
    let said = exec(&mut client, &id, script).await;
    let text = String::from_utf8(said.stdout).unwrap();
    let machine = fs::read_link("/proc/self/ns/net").unwrap();
    assert!(text.starts_with(machine.to_str().unwrap()), "{text}");
    assert_eq!(said.exit_code, 0, "the machine's sysfs should be read-only");
    remove_pod(&mut client, &pod.0).await;
    assert_eq!(cri.leftovers(), Vec::<String>::new());
}
