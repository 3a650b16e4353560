//! The built-in network for real: each test has a network namespace of its own in the part of
//! the host, and more for its pods, so that nothing of the machine's network is touched.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rrun_cri_api::v1;
use rrun_tests::{Need, require};
use tempfile::TempDir;

use super::netlink::Netlink;
use super::{Network, NetworkConfig, PodNetRequest, netns, plan};

mod senders;

/// A pinned network namespace, unpinned when dropped.
pub(super) struct Pinned(pub PathBuf);

impl Pinned {
    fn new(path: PathBuf) -> Self {
        File::create(&path).unwrap();
        let target = path.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let own = "/proc/thread-self/ns/net";
            mount(
                Some(own),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        })
        .join()
        .unwrap();
        Self(path)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

pub(super) struct Host {
    directory: TempDir,
}

impl Host {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self) -> NetworkConfig {
        NetworkConfig {
            root: self.directory.path().join("root"),
            state: self.directory.path().join("state"),
            cni_conf_dir: self.directory.path().join("net.d"),
            cni_bin_dirs: vec!["/usr/lib/cni".into()],
            bridge: "rrun0".into(),
            subnet: "10.88.0.0/16".into(),
        }
    }

    pub async fn network(&self) -> Network {
        Network::open(self.config()).await.unwrap()
    }

    pub fn pod(&self, id: &str) -> (Pinned, PodNetRequest) {
        let pinned = Pinned::new(self.directory.path().join(id));
        let request = PodNetRequest {
            pod_id: id.into(),
            name: id.into(),
            namespace: "default".into(),
            netns: pinned.0.clone(),
            ..PodNetRequest::default()
        };
        (pinned, request)
    }
}

/// Runs `test` where the machine has nothing but a loopback and 192.0.2.1 on an interface that leads nowhere.
pub(super) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let netlink = Netlink::open().unwrap();
        plan::set_loopback_up(&netlink).unwrap();
        shell(
            "ip link add out0 type bridge; ip addr add 192.0.2.1/24 dev out0; ip link set out0 up",
        );
        shell("ip route add default via 192.0.2.254");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let host = Host {
            directory: tempfile::tempdir().unwrap(),
        };
        runtime.block_on(test(host));
    };
    std::thread::spawn(run).join().unwrap();
}

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Serves `answer` on a port inside a namespace, or on the host, until the test ends.
pub(super) fn serve(namespace: Option<&Path>, port: u16, answer: &'static str) {
    let bind = move || Ok(TcpListener::bind(("::", port))?);
    let listener = match namespace {
        Some(path) => netns::inside(path, bind).unwrap(),
        None => bind().unwrap(),
    };
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{answer} {}", peer.ip());
        }
    });
}

/// What a server says, and the address that it saw us come from.
pub(super) fn fetch(namespace: Option<&Path>, address: SocketAddr) -> anyhow::Result<String> {
    let connect = move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.replace("::ffff:", ""))
    };
    match namespace {
        Some(path) => netns::inside(path, connect),
        None => connect(),
    }
}

fn nothing_is_left() {
    let links = Netlink::open().unwrap().links().unwrap();
    let names: Vec<_> = links.into_iter().map(|link| link.name).collect();
    assert!(
        names.iter().all(|name| !name.starts_with("rr")),
        "{names:?}"
    );
    assert_eq!(shell("nft list tables"), "");
}

#[test]
fn pods_reach_each_other_and_the_host_and_leave_nothing() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let ((one, first), (two, second)) = (host.pod("one"), host.pod("two"));
        let ip1 = network.setup(&first).await.unwrap().0;
        let ip2 = network.setup(&second).await.unwrap().0;
        serve(Some(&two.0), 80, "two sees");
        serve(None, 81, "host sees");
        for (from, to) in ip1.iter().zip(&ip2) {
            let said = fetch(Some(&one.0), SocketAddr::new(*to, 80)).unwrap();
            assert_eq!(said, format!("two sees {from}"));
            assert!(fetch(None, SocketAddr::new(*to, 80)).is_ok());
            let inside = SocketAddr::from(([127, 0, 0, 1], 80));
            assert!(fetch(Some(&two.0), inside).is_ok());
        }
        let outside = "192.0.2.1:81".parse().unwrap();
        let said = fetch(Some(&one.0), outside).unwrap();
        assert_eq!(said, format!("host sees {}", ip1[0]));
        network.teardown(&first).await.unwrap();
        network.teardown(&second).await.unwrap();
        network.teardown(&second).await.unwrap();
        nothing_is_left();
    });
}

fn mapping(protocol: v1::Protocol, host_ip: &str, host_port: i32) -> v1::PortMapping {
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: 80,
        host_port,
        host_ip: host_ip.into(),
    }
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    host_ports("0");
}

/// Frames between pods pass the rules a second time, as on most Kubernetes nodes.
#[test]
fn host_ports_lead_to_the_pod_with_br_netfilter() {
    require!(Need::Path("/proc/sys/net/bridge/bridge-nf-call-iptables"));
    host_ports("1");
}

fn host_ports(bridge_nf: &'static str) {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(move |host| async move {
        for sysctl in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let _ = std::fs::write(Path::new("/proc/sys/net/bridge").join(sysctl), bridge_nf);
        }
        let network = host.network().await;
        let ((one, mut first), (two, second)) = (host.pod("one"), host.pod("two"));
        first.port_mappings = vec![
            mapping(v1::Protocol::Tcp, "", 8080),
            mapping(v1::Protocol::Tcp, "127.0.0.1", 8081),
        ];
        network.setup(&first).await.unwrap();
        network.setup(&second).await.unwrap();
        serve(Some(&one.0), 80, "one sees");
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for address in ["127.0.0.1:8080", "192.0.2.1:8080", "127.0.0.1:8081"] {
            assert!(fetch(None, at(address)).is_ok(), "{address}");
        }
        assert!(fetch(None, at("192.0.2.1:8081")).is_err());
        let said = fetch(Some(&two.0), at("192.0.2.1:8080")).unwrap();
        assert!(said.starts_with("one sees 10.88."), "{said}");
        // By itself through the host, which has to hide the pod's own address from it.
        assert!(fetch(Some(&one.0), at("192.0.2.1:8080")).is_ok());
        network.teardown(&first).await.unwrap();
        assert!(fetch(None, at("127.0.0.1:8080")).is_err());
        network.teardown(&second).await.unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_udp_host_port_leads_to_the_pod() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let (one, mut first) = host.pod("one");
        first.port_mappings = vec![
            mapping(v1::Protocol::Udp, "", 5353),
            mapping(v1::Protocol::Sctp, "", 5353),
        ];
        network.setup(&first).await.unwrap();
        let server = netns::inside(&one.0, || Ok(UdpSocket::bind("0.0.0.0:80")?)).unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        for socket in [&server, &client] {
            socket
                .set_read_timeout(Some(Duration::from_secs(3)))
                .unwrap();
        }
        client.send_to(b"ping", "127.0.0.1:5353").unwrap();
        let mut buffer = [0; 8];
        let (count, peer) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..count], peer).unwrap();
        let (count, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..count], from.to_string().as_str()),
            (&b"ping"[..], "127.0.0.1:5353")
        );
        network.teardown(&first).await.unwrap();
        nothing_is_left();
    });
}

/// A client that goes on sending from one port reaches whoever has the host port now: neither nobody,
/// as before the first pod, nor the pod that is gone.
#[test]
fn a_udp_client_that_goes_on_sending_follows_the_host_port() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        // With it the tracker is at work before the port is.
        let (_zero, other) = host.pod("zero");
        network.setup(&other).await.unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"early", "127.0.0.1:5353").unwrap();
        for name in ["one", "two"] {
            let (pinned, mut pod) = host.pod(name);
            pod.port_mappings = vec![mapping(v1::Protocol::Udp, "", 5353)];
            network.setup(&pod).await.unwrap();
            let server = netns::inside(&pinned.0, || Ok(UdpSocket::bind("0.0.0.0:80")?)).unwrap();
            server
                .set_read_timeout(Some(Duration::from_secs(3)))
                .unwrap();
            client.send_to(name.as_bytes(), "127.0.0.1:5353").unwrap();
            let mut buffer = [0; 8];
            let (count, _) = server.recv_from(&mut buffer).expect(name);
            assert_eq!(&buffer[..count], name.as_bytes());
            network.teardown(&pod).await.unwrap();
        }
        network.teardown(&other).await.unwrap();
        nothing_is_left();
    });
}

/// Docker and ufw let iptables' FORWARD drop by policy; what they drop by a rule stays dropped.
#[test]
fn pods_pass_a_firewall_that_drops_by_policy() {
    require!(
        Need::Network,
        Need::Program("nft"),
        Need::Program("ip"),
        Need::Program("iptables")
    );
    on_a_host(|host| async move {
        shell("echo 1 > /proc/sys/net/ipv4/ip_forward; iptables -P FORWARD DROP");
        // A neighbour beyond this machine.
        let (far, _) = host.pod("far");
        shell("ip link add far0 type veth peer name eth0; ip link set far0 up");
        shell("ip addr add 198.51.100.1/24 dev far0");
        shell(&format!("ip link set eth0 netns {}", far.0.display()));
        netns::inside(&far.0, || {
            shell("ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up");
            shell("ip route add default via 198.51.100.1");
            Ok(())
        })
        .unwrap();
        let network = host.network().await;
        let (one, first) = host.pod("one");
        let ips = network.setup(&first).await.unwrap().0;
        serve(Some(&far.0), 80, "far sees");
        let there = "198.51.100.2:80".parse().unwrap();
        assert_eq!(fetch(Some(&one.0), there).unwrap(), "far sees 198.51.100.1");
        serve(Some(&one.0), 80, "pod sees");
        let stranger = fetch(Some(&far.0), SocketAddr::new(ips[0], 80));
        assert!(
            stranger.is_err(),
            "the policy is for what is not the pod's own business"
        );
        let rules = shell("iptables -S FORWARD");
        assert_eq!(rules.matches("rrun-cri rrun0").count(), 3, "{rules}");
        network.teardown(&first).await.unwrap();
        assert_eq!(shell("iptables -S FORWARD"), "-P FORWARD DROP\n");
    });
}

/// CVE-2020-8558: route_localnet let neighbours reach what listens on 127.0.0.1 only.
#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let (one, first) = host.pod("one");
        network.setup(&first).await.unwrap();
        let listener = UdpSocket::bind("127.0.0.1:7000").unwrap();
        listener
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        // Inside the pod, 127.0.0.1 must leave by eth0 for the attack.
        netns::inside(&one.0, || {
            shell("ip addr flush dev lo; ip route del local 127.0.0.0/8 table local || true");
            shell("ip route del local 127.0.0.1 table local || true");
            shell("ip route add 127.0.0.1 via 10.88.0.1 dev eth0 onlink src 10.88.0.2");
            shell("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
            let socket = UdpSocket::bind("10.88.0.2:0")?;
            socket.send_to(b"knock", "127.0.0.1:7000")?;
            Ok(())
        })
        .unwrap();
        assert!(listener.recv_from(&mut [0; 8]).is_err());
        network.teardown(&first).await.unwrap();
    });
}

#[test]
fn a_restart_finds_the_living_and_removes_the_rest() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let ((one, mut first), (_two, second)) = (host.pod("one"), host.pod("two"));
        first.port_mappings = vec![mapping(v1::Protocol::Tcp, "", 8080)];
        let before = host.network().await;
        let ips = before.setup(&first).await.unwrap();
        before.setup(&second).await.unwrap();
        drop(before);
        serve(Some(&one.0), 80, "one sees");
        shell(
            "nft flush ruleset; ip link add rrstray type veth peer name x; ip link set rrstray master rrun0",
        );
        let after = host.network().await;
        after.recover(std::slice::from_ref(&first)).await.unwrap();
        assert!(fetch(None, "127.0.0.1:8080".parse().unwrap()).is_ok());
        let links = Netlink::open().unwrap().links().unwrap();
        let ours = links
            .iter()
            .filter(|link| link.name.starts_with("rr"))
            .count();
        assert_eq!(ours, 2, "the bridge and one pod: {links:?}");
        let (_three, third) = host.pod("three");
        assert!(!after.setup(&third).await.unwrap().0.contains(&ips.0[0]));
        // The living pod's interface is made again.
        shell(&format!("ip link del {}", plan::veth_name("one")));
        let again = host.network().await;
        again.recover(&[first.clone(), third]).await.unwrap();
        assert!(fetch(None, SocketAddr::new(ips.0[0], 80)).is_ok());
        again.recover(&[]).await.unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_setup_that_was_cut_short_can_be_repeated_and_undone() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let (one, first) = host.pod("one");
        let gone = PodNetRequest {
            netns: host.directory.path().join("none"),
            ..first.clone()
        };
        let error = network.setup(&gone).await.unwrap_err();
        assert!(format!("{error:#}").contains("none"), "{error:#}");
        network.setup(&first).await.unwrap();
        let again = network.setup(&first).await;
        assert!(again.is_ok(), "{again:?}");
        drop(one);
        network.teardown(&first).await.unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_taken_subnet_is_avoided() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        shell("ip route add 10.88.3.0/24 via 192.0.2.7");
        let network = host.network().await;
        let (_one, first) = host.pod("one");
        let ips = network.setup(&first).await.unwrap().0;
        assert_eq!(ips[0], "10.89.0.2".parse::<IpAddr>().unwrap());
        network.teardown(&first).await.unwrap();
        nothing_is_left();
    });
}

/// Two daemons on one machine, as in a test beside a service.
#[test]
fn a_second_daemon_gets_a_bridge_of_its_own() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let config = NetworkConfig {
            state: host.path("other"),
            ..host.config()
        };
        let other = Network::open(config).await.unwrap();
        let ((_one, first), (two, second)) = (host.pod("one"), host.pod("two"));
        network.setup(&first).await.unwrap();
        let ips = other.setup(&second).await.unwrap().0;
        assert_eq!(ips[0], "10.89.0.2".parse::<IpAddr>().unwrap());
        network.teardown(&first).await.unwrap();
        serve(Some(&two.0), 80, "two sees");
        assert!(fetch(None, SocketAddr::new(ips[0], 80)).is_ok());
        other.teardown(&second).await.unwrap();
        nothing_is_left();
    });
}

/// What a pod with CAP_NET_RAW sends to a neighbour's own address is seen by no rule of the host, so by
/// no NetworkPolicy.
#[test]
fn raw_frames_reach_the_host_and_no_neighbour() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let ((one, first), (two, second)) = (host.pod("one"), host.pod("two"));
        network.setup(&first).await.unwrap();
        let ip = network.setup(&second).await.unwrap().0[0];
        let server = netns::inside(&two.0, move || Ok(UdpSocket::bind((ip, 7000))?)).unwrap();
        let mut buffer = [0; 16];
        let mut heard = |sent: &str, limit: u64| {
            server
                .set_read_timeout(Some(Duration::from_millis(limit)))
                .unwrap();
            match server.recv_from(&mut buffer) {
                Ok((count, _)) => String::from_utf8_lossy(&buffer[..count]) == sent,
                Err(_) => false,
            }
        };
        let send = |text: &'static str| {
            netns::inside(&one.0, move || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(text.as_bytes(), (ip, 7000))?;
                Ok(())
            })
            .unwrap();
        };
        send("routed");
        assert!(heard("routed", 3000));
        let mac = "0a:58:0a:58:00:03";
        for (word, lladdr) in [("unicast", mac), ("broadcast", "ff:ff:ff:ff:ff:ff")] {
            netns::inside(&one.0, move || {
                shell(&format!("ip route replace {ip} dev eth0"));
                shell(&format!(
                    "ip neigh replace {ip} lladdr {lladdr} dev eth0 nud permanent"
                ));
                Ok(())
            })
            .unwrap();
            send(word);
        }
        netns::inside(&one.0, move || {
            shell(&format!("ip route del {ip} dev eth0"));
            Ok(())
        })
        .unwrap();
        // A broadcast is the host's to take, and it routes what has a pod's address no further; in
        // order after both, so that a frame which got through would have come first.
        send("routed");
        assert!(
            heard("routed", 3000),
            "a frame came around the host's rules"
        );
        network.teardown(&first).await.unwrap();
        network.teardown(&second).await.unwrap();
        nothing_is_left();
    });
}
