//! Connections that the kernel's tracker has on record, and forgetting those that a change of host
//! ports has made wrong. A rule of address translation counts for the first packet of a connection;
//! UDP has no other end of one than silence, so a client that goes on sending would go on sending to
//! where the port led before.

use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::netlink::{Message, NLM_F_ACK, NLM_F_DUMP, Netlink, attributes};

// linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_conntrack.h
const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = NFNL_SUBSYS_CTNETLINK | 1;
const IPCTNL_MSG_CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const IPPROTO_UDP: u8 = 17;

/// A UDP connection on record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    /// Where the client sends to.
    to: IpAddr,
    /// Port that it sends to.
    port: u16,
    /// Who answers: the pod, where the port is translated.
    server: IpAddr,
    /// What names it in a request: family and attributes, as the kernel gave them.
    name: Vec<u8>,
}

/// Which flows are to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A pod got these ports of the host (with the host's address where one is given): flows to them
    /// that lead elsewhere.
    Taken(Vec<(Option<IpAddr>, u16)>, Vec<IpAddr>),
    /// A pod with these addresses is gone: flows that lead to it.
    Gone(Vec<IpAddr>),
}

impl Stale {
    fn has(&self, flow: &Flow) -> bool {
        match self {
            Self::Taken(ports, pod) => {
                let meant = |(host, port): &(Option<IpAddr>, u16)| {
                    *port == flow.port && host.is_none_or(|host| host == flow.to)
                };
                ports.iter().any(meant) && !pod.contains(&flow.server)
            }
            Self::Gone(pod) => pod.contains(&flow.server),
        }
    }
}

/// Forgets flows in the network namespace of the calling thread, and says how many.
pub fn forget(stale: &Stale) -> Result<usize> {
    let netlink = Netlink::open_filter()?;
    let mut found = Vec::new();
    let everything = Message::generic(0);
    let listed = netlink.each(IPCTNL_MSG_CT_GET, NLM_F_DUMP, &everything, |body| {
        found.extend(parse(body).filter(|flow| stale.has(flow)));
    });
    match listed {
        // A kernel without nf_conntrack_netlink.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(0),
        other => other.context("list the tracked connections")?,
    }
    for flow in &found {
        let name = Message::raw(&flow.name);
        match netlink.each(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, &name, |_| {}) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).context("forget a tracked connection"),
        }
    }
    Ok(found.len())
}

/// A UDP flow of the kernel's answer; others are none.
fn parse(body: &[u8]) -> Option<Flow> {
    let mut name = vec![*body.first()?, 0, 0, 0];
    let (mut orig, mut reply) = (None, None);
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            CTA_TUPLE_ORIG => orig = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            _ => {}
        }
        if [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE].contains(&kind) {
            let mut attribute = Message::raw(&[]);
            attribute.nested_bytes(kind, value, kind == CTA_TUPLE_ORIG);
            name.extend_from_slice(attribute.as_bytes());
        }
    }
    let (orig, reply) = (orig?, reply?);
    (orig.protocol == IPPROTO_UDP).then_some(Flow {
        to: orig.to,
        port: orig.port,
        server: reply.from,
        name,
    })
}

struct Tuple {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: u16,
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut from, mut to, mut protocol, mut port) = (None, None, 0, 0);
    for (kind, value) in attributes(bytes) {
        for (inner, value) in attributes(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => from = address(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => to = address(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = *value.first()?,
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => {
                    port = u16::from_be_bytes(*value.first_chunk()?);
                }
                _ => {}
            }
        }
    }
    Some(Tuple {
        from: from?,
        to: to?,
        protocol,
        port,
    })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(*value.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*value.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(to: &str, port: u16, server: &str) -> Flow {
        let (to, server) = (to.parse().unwrap(), server.parse().unwrap());
        let name = vec![];
        Flow {
            to,
            port,
            server,
            name,
        }
    }

    #[test]
    fn flows_to_a_taken_port_that_lead_elsewhere_are_stale() {
        let pod = "10.88.0.2".parse().unwrap();
        let host = Some("192.0.2.1".parse().unwrap());
        let stale = Stale::Taken(vec![(None, 53), (host, 54)], vec![pod]);
        assert!(stale.has(&flow("127.0.0.1", 53, "127.0.0.1")));
        assert!(stale.has(&flow("192.0.2.1", 53, "10.88.0.9")));
        assert!(!stale.has(&flow("192.0.2.1", 53, "10.88.0.2")));
        assert!(stale.has(&flow("192.0.2.1", 54, "192.0.2.1")));
        assert!(!stale.has(&flow("192.0.2.7", 54, "192.0.2.7")));
        assert!(!stale.has(&flow("192.0.2.1", 55, "192.0.2.1")));
    }

    #[test]
    fn flows_to_a_pod_that_is_gone_are_stale() {
        let stale = Stale::Gone(vec!["10.88.0.2".parse().unwrap()]);
        assert!(stale.has(&flow("192.0.2.1", 53, "10.88.0.2")));
        assert!(!stale.has(&flow("192.0.2.1", 53, "10.88.0.3")));
    }

    #[test]
    fn cut_answers_are_no_flows() {
        for length in 0..40 {
            assert_eq!(parse(&vec![0xff; length]), None);
            assert_eq!(parse(&vec![0; length]), None);
        }
    }
}
