//! CNI with Debian's plugins in network namespaces of the tests' own, and with a plugin that
//! writes down what it was asked.

use std::fs;
use std::net::SocketAddr;

use rrun_cri_api::v1;
use rrun_tests::{Need, require};
use serde_json::{Value, json};

use super::super::netlink::Netlink;
use super::super::tests::{Host, fetch, on_a_host, serve};
use super::super::{Network, PodNetRequest};
use super::addresses;

fn configure(host: &Host, network: &Value) {
    let directory = host.path("net.d");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("10-test.conflist"), network.to_string()).unwrap();
}

fn debians(host: &Host) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "test",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": host.path("ipam"),
                    "ranges": [[{"subnet": "10.99.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "tuning", "mtu": 1300},
        ],
    })
}

#[test]
fn debians_plugins_make_and_remove_a_network() {
    require!(
        Need::Network,
        Need::Program("bridge"),
        Need::Program("host-local")
    );
    require!(Need::Program("ip"));
    on_a_host(|host| async move {
        configure(&host, &debians(&host));
        let network = host.network().await;
        assert!(network.status().await.ready);
        let ((one, first), (_two, second)) = (host.pod("one"), host.pod("two"));
        let ips = network.setup(&first).await.unwrap().0;
        assert_eq!(ips, ["10.99.0.2".parse::<std::net::IpAddr>().unwrap()]);
        network.setup(&second).await.unwrap();
        serve(Some(&one.0), 80, "one sees");
        assert!(fetch(None, SocketAddr::new(ips[0], 80)).is_ok());
        // The daemon was killed, and the second pod is gone.
        let after = host.network().await;
        after.recover(std::slice::from_ref(&first)).await.unwrap();
        assert!(fetch(None, SocketAddr::new(ips[0], 80)).is_ok());
        assert!(!host.path("ipam/test/10.99.0.3").exists());
        // A teardown uses what the setup used, whatever is configured now.
        fs::remove_dir_all(host.path("net.d")).unwrap();
        after.teardown(&first).await.unwrap();
        after.teardown(&first).await.unwrap();
        assert!(!host.path("ipam/test/10.99.0.2").exists());
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");
    });
}

#[test]
fn a_failed_add_is_undone_and_told_in_the_plugins_words() {
    require!(
        Need::Network,
        Need::Program("bridge"),
        Need::Program("host-local")
    );
    require!(Need::Program("ip"));
    on_a_host(|host| async move {
        let mut broken = debians(&host);
        broken["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] = json!("10.99.0.0/32");
        broken["plugins"][0]["bridge"] = json!("cni1");
        configure(&host, &broken);
        let network = host.network().await;
        let (_one, first) = host.pod("one");
        let error = format!("{:#}", network.setup(&first).await.unwrap_err());
        assert!(
            error.contains("bridge ADD") && error.contains("too small"),
            "{error}"
        );
        configure(&host, &debians(&host));
        network.setup(&first).await.unwrap();
        network.teardown(&first).await.unwrap();
    });
}

/// Answers ADD with a fixed address, fails DEL while a file `stuck` is there, and keeps what it
/// was asked in `asked`, one line a call.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
config=$(tr -d '\n')
echo "$CNI_COMMAND|$CNI_CONTAINERID|$CNI_NETNS|$CNI_ARGS|$config" >> "$here/asked"
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.7.0.2/24"},{"address":"fd07::2/64"}]}' ;;
DEL) [ ! -e "$here/stuck" ] || { echo '{"code":11,"msg":"try again"}'; exit 1; } ;;
STATUS) [ ! -e "$here/stuck" ] || { echo '{"code":50,"msg":"no address left"}'; exit 1; } ;;
esac
"#;

struct Asked(std::path::PathBuf);

impl Asked {
    fn calls(&self) -> Vec<(Vec<String>, Value)> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let calls = text.lines().map(|line| {
            let mut fields: Vec<_> = line.splitn(5, '|').map(str::to_owned).collect();
            let config = serde_json::from_str(&fields.pop().unwrap()).unwrap();
            (fields, config)
        });
        let calls = calls.collect();
        let _ = fs::remove_file(&self.0);
        calls
    }
}

async fn scripted(host: &Host) -> (Network, Asked) {
    let plugins = host.path("plugins");
    fs::create_dir_all(&plugins).unwrap();
    rrun_tests::write_script(&plugins.join("scripted"), SCRIPT);
    configure(
        host,
        &json!({
            "cniVersion": "1.1.0",
            "name": "test",
            "plugins": [
                {"type": "scripted", "capabilities": {"portMappings": true}},
                {"type": "scripted"},
            ],
        }),
    );
    let mut config = host.config();
    config.cni_bin_dirs = vec![plugins.clone()];
    (
        Network::open(config).await.unwrap(),
        Asked(plugins.join("asked")),
    )
}

fn with_port(mut request: PodNetRequest) -> PodNetRequest {
    request.port_mappings = vec![v1::PortMapping {
        protocol: v1::Protocol::Tcp.into(),
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    }];
    request
}

#[test]
fn plugins_are_asked_as_the_specification_says() {
    require!(Need::Network, Need::Program("ip"));
    on_a_host(|host| async move {
        let (network, asked) = scripted(&host).await;
        let (one, request) = host.pod("one");
        let request = with_port(request);
        let ips = network.setup(&request).await.unwrap().0;
        assert_eq!(
            ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.7.0.2", "fd07::2"]
        );
        let calls = asked.calls();
        assert_eq!(calls.len(), 2);
        let (fields, first) = &calls[0];
        assert_eq!(fields[..3], ["ADD", "one", one.0.to_str().unwrap()]);
        assert!(
            fields[3].contains("K8S_POD_NAME=one;K8S_POD_INFRA_CONTAINER_ID=one"),
            "{fields:?}"
        );
        assert_eq!(first["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        let second = &calls[1].1;
        assert_eq!(second["prevResult"]["ips"][0]["address"], "10.7.0.2/24");
        assert_eq!(second.get("runtimeConfig"), None);
        network.teardown(&request).await.unwrap();
        let calls = asked.calls();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].0[0], "DEL");
        assert_eq!(calls[1].1["prevResult"]["ips"][1]["address"], "fd07::2/64");
        assert_eq!(
            calls[1].1["runtimeConfig"]["portMappings"][0]["containerPort"],
            80
        );
    });
}

#[test]
fn a_del_that_fails_is_repeated_until_it_succeeds() {
    require!(Need::Network, Need::Program("ip"));
    on_a_host(|host| async move {
        let (network, asked) = scripted(&host).await;
        let (one, request) = host.pod("one");
        network.setup(&request).await.unwrap();
        fs::write(host.path("plugins/stuck"), "").unwrap();
        let error = format!("{:#}", network.teardown(&request).await.unwrap_err());
        assert!(error.contains("try again (CNI error 11)"), "{error}");
        assert_eq!(
            network
                .status()
                .await
                .message
                .matches("no address left")
                .count(),
            1
        );
        fs::remove_file(host.path("plugins/stuck")).unwrap();
        asked.calls();
        // The namespace is gone by now.
        drop(one);
        fs::remove_file(&request.netns).unwrap();
        network.teardown(&request).await.unwrap();
        let calls = asked.calls();
        assert_eq!((calls.len(), calls[0].0[2].as_str()), (2, ""));
        network.teardown(&request).await.unwrap();
        assert!(asked.calls().is_empty());
        assert!(network.status().await.ready);
    });
}

#[test]
fn a_restart_checks_the_living_and_collects_the_rest() {
    require!(Need::Network, Need::Program("ip"));
    on_a_host(|host| async move {
        let (network, asked) = scripted(&host).await;
        let ((_one, first), (_two, second)) = (host.pod("one"), host.pod("two"));
        network.setup(&first).await.unwrap();
        network.setup(&second).await.unwrap();
        asked.calls();
        network.recover(std::slice::from_ref(&first)).await.unwrap();
        let calls = asked.calls();
        let mut verbs: Vec<_> = calls
            .iter()
            .map(|(f, _)| (f[0].as_str(), f[1].as_str()))
            .collect();
        verbs.sort_unstable();
        let expected = [
            ("CHECK", "one"),
            ("CHECK", "one"),
            ("DEL", "two"),
            ("DEL", "two"),
            ("GC", ""),
            ("GC", ""),
        ];
        assert_eq!(verbs, expected);
        let (_, gc) = calls.iter().find(|(fields, _)| fields[0] == "GC").unwrap();
        let kept = json!([{"containerID": "one", "ifname": "eth0"}]);
        assert_eq!(gc["cni.dev/valid-attachments"], kept);
    });
}

#[test]
fn a_configuration_that_cannot_be_read_is_no_reason_for_another_network() {
    require!(Need::Network, Need::Program("ip"));
    on_a_host(|host| async move {
        let directory = host.path("net.d");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("10-x.conflist"), "{").unwrap();
        let network = host.network().await;
        let status = network.status().await;
        assert_eq!(
            (status.ready, status.reason.as_str()),
            (false, "NetworkConfigInvalid")
        );
        assert!(
            status.message.contains("10-x.conflist"),
            "{}",
            status.message
        );
        let (_one, request) = host.pod("one");
        assert!(network.setup(&request).await.is_err());
        // By netlink: what /sys shows is of the machine, which may have a bridge of that name.
        let bridge = Netlink::open().unwrap().link("rrun0").unwrap();
        assert_eq!(bridge, None);
    });
}

#[test]
fn results_of_all_versions_are_read() {
    let read = |value: Value| addresses(Some(&value)).unwrap();
    let new = read(json!({"ips": [{"version": "4", "address": "10.0.0.2/16"}]}));
    let old = read(json!({"ip4": {"ip": "10.0.0.2/16"}}));
    assert_eq!(new, old);
    assert!(addresses(Some(&json!({"ips": [{"address": "x"}]}))).is_err());
    assert!(addresses(Some(&json!({}))).is_err());
    assert!(addresses(None).is_err());
}
