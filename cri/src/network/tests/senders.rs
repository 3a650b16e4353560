//! A pod with CAP_NET_RAW or CAP_NET_ADMIN sends under its own addresses and no others.

use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::time::Duration;

use rrun_tests::{Need, require};

use super::super::netlink::Netlink;
use super::super::netns;
use super::{fetch, nothing_is_left, on_a_host, serve, shell};

const GATEWAY: &str = "0a:58:0a:58:00:01";
const FIRST: &str = "0a:58:0a:58:00:02";
const SECOND: &str = "0a:58:0a:58:00:03";

fn within(namespace: &Path, script: String) {
    let run = move || {
        shell(&script);
        Ok(())
    };
    netns::inside(namespace, run).unwrap();
}

/// Sends `text` from `source` to a port of the host. An address of the link needs its interface.
fn send(namespace: &Path, source: IpAddr, to: SocketAddr, text: &'static str) {
    let run = move || {
        let eth0 = Netlink::open()?.link("eth0")?.map(|link| link.index);
        let source = match source {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, 0, 0, eth0.unwrap_or_default()).into()
            }
            other => SocketAddr::new(other, 0),
        };
        UdpSocket::bind(source)?.send_to(text.as_bytes(), to)?;
        Ok(())
    };
    netns::inside(namespace, run).unwrap();
}

#[test]
fn forged_sources_reach_nobody() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let ((one, first), (two, second)) = (host.pod("one"), host.pod("two"));
        let own = network.setup(&first).await.unwrap().0;
        let others = network.setup(&second).await.unwrap().0;
        let listener = UdpSocket::bind("[::]:7000").unwrap();
        let limit = Some(Duration::from_secs(5));
        listener.set_read_timeout(limit).unwrap();
        let gateways: Vec<SocketAddr> = shell("ip -o addr show dev rrun0 scope global")
            .lines()
            .map(|line| line.split_whitespace().nth(3).unwrap())
            .map(|text| text.split('/').next().unwrap().parse().unwrap())
            .map(|ip| SocketAddr::new(ip, 7000))
            .collect();
        // What a frame is sent to is known, so that none waits for an answer.
        for gateway in &gateways {
            let entry = format!("{} lladdr {GATEWAY} dev eth0", gateway.ip());
            within(&one.0, format!("ip neigh replace {entry} nud permanent"));
        }
        let link: IpAddr = "fe80::858:aff:fe58:3".parse().unwrap();
        // A machine without IPv6 has none of the link either.
        let link = others.iter().any(IpAddr::is_ipv6).then_some(&link);
        for ip in others.iter().chain(link) {
            let whole = if ip.is_ipv4() { "32" } else { "128 nodad" };
            within(&one.0, format!("ip addr add {ip}/{whole} dev eth0"));
        }
        let mut buffer = [0; 16];
        let mut arrives = |text: &str, from: IpAddr| {
            let (count, peer) = listener.recv_from(&mut buffer).unwrap();
            assert_eq!(String::from_utf8_lossy(&buffer[..count]), text);
            assert_eq!(peer.ip().to_canonical(), from);
        };
        for to in &gateways {
            let same = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
            let mine = *own.iter().find(same).unwrap();
            for forged in others.iter().chain(link).filter(same) {
                send(&one.0, *forged, *to, "forged");
            }
            within(&one.0, format!("ip link set eth0 address {SECOND}"));
            send(&one.0, mine, *to, "forged");
            within(&one.0, format!("ip link set eth0 address {FIRST}"));
            // In order after the forged ones, which would have come first.
            send(&one.0, mine, *to, "own");
            arrives("own", mine);
        }
        network.teardown(&first).await.unwrap();
        drop(two);
        network.teardown(&second).await.unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_neighbour_is_not_taken_for_another() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let ((one, first), (two, second)) = (host.pod("one"), host.pod("two"));
        let own = network.setup(&first).await.unwrap().0;
        let others = network.setup(&second).await.unwrap().0;
        serve(Some(&two.0), 80, "two sees");
        serve(Some(&one.0), 80, "one sees");
        shell("echo 0 > /proc/sys/net/ipv4/neigh/rrun0/locktime");
        for ip in &others {
            assert!(fetch(None, SocketAddr::new(*ip, 80)).is_ok());
            let whole = if ip.is_ipv4() { "32" } else { "128 nodad" };
            within(&one.0, format!("ip addr add {ip}/{whole} dev eth0"));
        }
        // With these it tells everybody what addresses it has whenever that of Ethernet changes.
        let notify = "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify; echo 1 > /proc/sys/net/ipv6/conf/eth0/ndisc_notify || true";
        let there = format!("ip link set eth0 address {SECOND}");
        let back = format!("ip link set eth0 address {FIRST}");
        within(&one.0, format!("{notify}; {there}; {back}"));
        for ip in &own {
            assert!(fetch(None, SocketAddr::new(*ip, 80)).is_ok());
        }
        for ip in &others {
            let said = fetch(None, SocketAddr::new(*ip, 80)).unwrap();
            assert!(said.starts_with("two sees"), "{said}");
            let known = shell(&format!("ip neigh show {ip} dev rrun0"));
            assert!(!known.contains(FIRST), "{known}");
        }
        network.teardown(&first).await.unwrap();
        network.teardown(&second).await.unwrap();
        nothing_is_left();
    });
}

#[test]
fn a_pod_is_in_the_table_for_as_long_as_it_lives() {
    require!(Need::Network, Need::Program("nft"), Need::Program("ip"));
    on_a_host(|host| async move {
        let network = host.network().await;
        let ((one, first), (_two, second)) = (host.pod("one"), host.pod("two"));
        let table = || shell("nft list table bridge rrun_net_rrun0");
        network.setup(&first).await.unwrap();
        assert!(!table().contains(SECOND));
        let ips = network.setup(&second).await.unwrap().0;
        let both = table();
        assert_eq!(
            both.matches(SECOND).count(),
            ips.len() + usize::from(ips.len() > 1)
        );
        network.teardown(&second).await.unwrap();
        assert!(!table().contains(SECOND));
        // Somebody else's firewall took ours with it: the next pod brings it back.
        shell("nft flush ruleset");
        let (three, third) = host.pod("three");
        let ips = network.setup(&third).await.unwrap().0;
        assert!(table().contains(FIRST));
        serve(Some(&three.0), 80, "three sees");
        for ip in ips {
            assert!(fetch(Some(&one.0), SocketAddr::new(ip, 80)).is_ok());
        }
        network.teardown(&first).await.unwrap();
        network.teardown(&third).await.unwrap();
        nothing_is_left();
    });
}
