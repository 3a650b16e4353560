//! The table of the bridge's own family: what pods may send each other, and as whom.
//!
//! Its text replaces the table whole, with the rules of `rules`. A pod that comes or goes without a
//! port of the host changes elements of its sets alone, without nft, which takes longer than all the
//! pod's interfaces do.

use std::fmt::Write as _;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use nix::errno::Errno;

use super::leases::{Lease, Settings};
use super::netlink::{Mac, Message, NLM_F_ACK, NLM_F_CREATE, Netlink};
use super::plan::{port_group, veth_name};
use super::rules::table;
use super::subnet::mac;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
const NFT_MSG_DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFPROTO_BRIDGE: u8 = 7;
/// An interface's name in a key, with its zeros (IFNAMSIZ).
const NAME: usize = 16;

/// The transaction that replaces the table which keeps pods' frames from each other, and from
/// being sent in another's name.
///
/// Pods reach each other by the host, so a frame to anything but the bridge itself goes around the
/// host's rules. Broadcast and multicast (ARP, neighbour discovery) reach the bridge and nobody else.
/// Before br_netfilter (priority 0), which sends translated frames on by the bridge, and before the
/// bridge learns from a frame who is where.
///
/// Each port has the addresses of its pod: what comes by it under another address (of Ethernet, IPv4,
/// IPv6), or says in ARP or neighbour discovery that it has another, is dropped, and so is what is
/// neither IP nor ARP.
pub fn replace<'a>(settings: &Settings, leases: impl Iterator<Item = &'a Lease>) -> String {
    let bridge = settings.bridge.as_str();
    let own = text(mac(settings.subnet.gateway()));
    let (table, group) = (table(bridge), port_group(bridge));
    let (four, six) = elements(settings, leases);
    // The fields by their places: nft learned of an advertisement's target after Debian 12's.
    format!(
        r"{}table bridge {table} {{
  set four {{ type ifname . ether_addr . ipv4_addr; {four}}}
  set six {{ typeof iifname . ether saddr . @nh,64,128; {six}}}
  chain reach {{
    ether daddr {own} accept
    ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 ether daddr set {own} accept
    drop
  }}
  chain pods {{
    type filter hook prerouting priority -200;
    iifgroup != {group} accept
    ether type ip iifname . ether saddr . ip saddr @four goto reach
    ether type arp iifname . ether saddr . arp saddr ip @four iifname . arp saddr ether . arp saddr ip @four goto reach
    ether type ip6 icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @six drop
    ether type ip6 iifname . ether saddr . @nh,64,128 @six goto reach
    drop
  }}
}}
",
        remove(bridge)
    )
}

/// The transaction that removes that table, whether or not there is one.
pub fn remove(bridge: &str) -> String {
    let table = table(bridge);
    format!("add table bridge {table}\ndelete table bridge {table}\n")
}

/// The way to the sets of one bridge.
///
/// Its socket stays open from one pod to the next. A transaction takes microseconds, but to close a
/// socket of netfilter waits until the kernel has freed what was taken out before: a grace period of
/// RCU, 20 ms and more (`nft_rcv_nl_event`).
#[derive(Default)]
pub struct Sets(Mutex<Option<Netlink>>);

impl Sets {
    /// Lets a pod send under its addresses. False where there is no table to say so in.
    pub fn admit(&self, settings: &Settings, lease: &Lease) -> Result<bool> {
        self.change(NFT_MSG_NEWSETELEM, NLM_F_CREATE, settings, lease)
            .with_context(|| format!("admit {} to bridge {}", lease.address, settings.bridge))
    }

    /// Forgets a pod that is gone. False where it is not known.
    pub fn forget(&self, settings: &Settings, lease: &Lease) -> Result<bool> {
        self.change(NFT_MSG_DELSETELEM, 0, settings, lease)
            .with_context(|| format!("forget {} on bridge {}", lease.address, settings.bridge))
    }

    /// Lets the socket go, until the next pod.
    pub fn rest(&self) {
        self.socket().take();
    }

    fn socket(&self) -> MutexGuard<'_, Option<Netlink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, kind: u16, flags: u16, settings: &Settings, lease: &Lease) -> Result<bool> {
        let mut socket = self.socket();
        let netlink = socket.take().map_or_else(Netlink::open_filter, Ok)?;
        match change(&netlink, kind, flags, settings, lease) {
            Ok(()) => {
                *socket = Some(netlink);
                Ok(true)
            }
            // Answers to what failed may come yet, so that one is not used again.
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn change(
    netlink: &Netlink,
    kind: u16,
    flags: u16,
    settings: &Settings,
    lease: &Lease,
) -> Result<(), Errno> {
    let (four, six) = Sender::new(settings, lease).keys();
    let mut elements = vec![message(settings, "four", &[four])];
    if !six.is_empty() {
        elements.push(message(settings, "six", &six));
    }
    // struct nfgenmsg; its resource is the subsystem, in network order.
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    let edge = Message::raw(&[0, 0, high, low]);
    let mut batch = vec![(NFNL_MSG_BATCH_BEGIN, 0, &edge)];
    batch.extend(elements.iter().map(|e| (kind, flags | NLM_F_ACK, e)));
    batch.push((NFNL_MSG_BATCH_END, 0, &edge));
    netlink.batch(&batch)
}

fn message(settings: &Settings, set: &str, keys: &[Vec<u8>]) -> Message {
    let mut message = Message::generic(NFPROTO_BRIDGE);
    message.text(NFTA_SET_ELEM_LIST_TABLE, &table(&settings.bridge));
    message.text(NFTA_SET_ELEM_LIST_SET, set);
    message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        for key in keys {
            list.nest(NFTA_LIST_ELEM, |element| {
                element.nest(NFTA_SET_ELEM_KEY, |data| data.bytes(NFTA_DATA_VALUE, key));
            });
        }
    });
    message
}

/// Who sends by a port of the bridge.
struct Sender {
    port: String,
    mac: Mac,
    four: [u8; 4],
    /// Its address on the link and its own one, where there is IPv6.
    six: Vec<Ipv6Addr>,
}

impl Sender {
    fn new(settings: &Settings, lease: &Lease) -> Self {
        let mac = mac(lease.address);
        let six = settings.prefix6.map(|prefix| prefix.with(lease.address));
        Self {
            port: veth_name(&lease.pod_id),
            mac,
            four: lease.address.octets(),
            six: six.map_or_else(Vec::new, |six| vec![link_local(mac), six]),
        }
    }

    /// As the kernel has them: each part is filled up to four bytes.
    fn keys(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut key = self.port.clone().into_bytes();
        key.resize(NAME, 0);
        key.extend_from_slice(&self.mac);
        key.extend_from_slice(&[0; 2]);
        let with = |address: &[u8]| [&key, address].concat();
        let six = self.six.iter().map(|six| with(&six.octets()));
        (with(&self.four), six.collect())
    }
}

/// The address that an interface gives itself (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(id)))
}

/// The elements of both sets, as nft writes them.
fn elements<'a>(settings: &Settings, leases: impl Iterator<Item = &'a Lease>) -> (String, String) {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for lease in leases {
        let sender = Sender::new(settings, lease);
        let before = format!("{:?} . {}", sender.port, text(sender.mac));
        four.push(format!("{before} . {}", lease.address));
        let all = sender.six.iter();
        six.extend(all.map(|six| format!("{before} . {:#034x}", six.to_bits())));
    }
    let list = |all: Vec<String>| {
        let mut text = String::new();
        if !all.is_empty() {
            // Writing to a String does not fail.
            let _ = write!(text, "elements = {{ {} }}; ", all.join(", "));
        }
        text
    };
    (list(four), list(six))
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_link_is_made_from_that_of_ethernet() {
        let mac = mac("10.88.0.3".parse().unwrap());
        assert_eq!(link_local(mac).to_string(), "fe80::858:aff:fe58:3");
    }

    #[test]
    fn a_key_has_its_parts_at_multiples_of_four() {
        let sender = Sender {
            port: "rr0".into(),
            mac: [1; 6],
            four: [2; 4],
            six: vec![Ipv6Addr::LOCALHOST],
        };
        let (four, six) = sender.keys();
        assert_eq!((four.len(), six[0].len()), (28, 40));
        assert_eq!(four[..4], *b"rr0\0");
        assert_eq!(four[16..], [1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2]);
    }
}
