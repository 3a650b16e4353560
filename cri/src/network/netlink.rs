//! rtnetlink(7) as far as the bridge needs it: one request, one answer, no state.
//!
//! A socket speaks for the network namespace in which it was made, whichever thread uses it later.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

// linux/netlink.h, linux/rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
/// The answer ends with an acknowledgement.
pub const NLM_F_ACK: u16 = 0x4;
/// Everything is answered.
pub const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
/// What is not there is made.
pub const NLM_F_CREATE: u16 = 0x400;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const HEADER: usize = 16;

// linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/veth.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTNH_F_ONLINK: u32 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`; empty for hardware.
    pub kind: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Index of the bridge that it is a port of; 0 for none.
    pub master: u32,
    /// What its maker wrote on it.
    pub alias: String,
}

/// A unicast route of any table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; unspecified with `prefix` 0 for the default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix in bits.
    pub prefix: u8,
    /// Index of the interface that it leaves by; 0 for several.
    pub interface: u32,
}

/// A pair of interfaces, one end of which is made in another network namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    /// Name of the end on this side.
    pub name: &'a str,
    /// Index of the bridge that it becomes a port of.
    pub master: u32,
    /// Group of interfaces that it belongs to, by which rules know it.
    pub group: u32,
    /// Largest packet of both ends in bytes.
    pub mtu: u32,
    /// Name of the other end.
    pub peer: &'a str,
    /// Address of the other end.
    pub peer_mac: Mac,
    /// The network namespace of the other end.
    pub netns: &'a OwnedFd,
}

/// A NETLINK_ROUTE socket.
pub struct Netlink {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

impl Netlink {
    /// For the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Self::speak(SockProtocol::NetlinkRoute)
    }

    /// The same for netfilter.
    pub fn open_filter() -> Result<Self> {
        Self::speak(SockProtocol::NetlinkNetFilter)
    }

    fn speak(protocol: SockProtocol) -> Result<Self> {
        let (family, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
        let socket =
            socket(family, SockType::Raw, flags, protocol).context("open a netlink socket")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("bind a netlink socket")?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
        })
    }

    /// The interface `name`, if there is one.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::link(0, 0);
        message.text(IFLA_IFNAME, name);
        match self.ask(RTM_GETLINK, 0, &message) {
            Ok(answers) => Ok(answers.iter().find_map(|body| parse_link(body))),
            Err(Errno::ENODEV) => Ok(None),
            Err(errno) => Err(errno).with_context(|| format!("look for interface {name}")),
        }
    }

    /// All interfaces.
    pub fn links(&self) -> Result<Vec<Link>> {
        let answers = self.ask(RTM_GETLINK, NLM_F_DUMP, &Message::link(0, 0));
        let answers = answers.context("list the interfaces")?;
        Ok(answers.iter().filter_map(|body| parse_link(body)).collect())
    }

    /// Makes a bridge, which is down.
    pub fn add_bridge(&self, name: &str, mac: Mac) -> Result<()> {
        let mut message = Message::link(0, 0);
        message.text(IFLA_IFNAME, name);
        // Given, so that it does not change with the lowest address of the ports.
        message.bytes(IFLA_ADDRESS, &mac);
        message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        self.tell(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
            .with_context(|| format!("make bridge {name}"))
    }

    /// Makes a pair of interfaces: this end is up and a port of the bridge.
    pub fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let mut peer = Message::link(0, 0);
        peer.text(IFLA_IFNAME, veth.peer);
        peer.number(IFLA_MTU, veth.mtu);
        peer.bytes(IFLA_ADDRESS, &veth.peer_mac);
        peer.number(IFLA_NET_NS_FD, veth.netns.as_raw_fd() as u32);
        let mut message = Message::link(0, IFF_UP);
        message.text(IFLA_IFNAME, veth.name);
        message.number(IFLA_MTU, veth.mtu);
        message.number(IFLA_MASTER, veth.master);
        message.number(IFLA_GROUP, veth.group);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nest(IFLA_INFO_DATA, |data| data.bytes(VETH_INFO_PEER, &peer.0));
        });
        self.tell(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
            .with_context(|| format!("make veth {} with {}", veth.name, veth.peer))
    }

    /// Lets a bridge send a frame back by the port that it came in by.
    pub fn set_hairpin(&self, index: u32) -> Result<()> {
        let mut message = Message::link(index, 0);
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.bytes(IFLA_BRPORT_MODE, &[1]);
            });
        });
        self.tell(RTM_NEWLINK, 0, &message)
            .with_context(|| format!("set hairpin mode of bridge port {index}"))
    }

    /// Puts an interface into a group of interfaces.
    pub fn set_group(&self, index: u32, group: u32) -> Result<()> {
        let mut message = Message::link(index, 0);
        message.number(IFLA_GROUP, group);
        self.tell(RTM_NEWLINK, 0, &message)
            .with_context(|| format!("set the group of interface {index}"))
    }

    /// Writes on an interface whose it is; at most 255 bytes count (IFALIASZ).
    pub fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        let mut message = Message::link(index, 0);
        message.bytes(IFLA_IFALIAS, alias.as_bytes());
        self.tell(RTM_NEWLINK, 0, &message)
            .with_context(|| format!("set the alias of interface {index}"))
    }

    /// Sets an interface up.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let message = Message::link(index, IFF_UP);
        self.tell(RTM_NEWLINK, 0, &message)
            .with_context(|| format!("set interface {index} up"))
    }

    /// Removes an interface; says whether there was one.
    pub fn delete_link(&self, name: &str) -> Result<bool> {
        let mut message = Message::link(0, 0);
        message.text(IFLA_IFNAME, name);
        match self.ask(RTM_DELLINK, NLM_F_ACK, &message) {
            Ok(_) => Ok(true),
            Err(Errno::ENODEV) => Ok(false),
            Err(errno) => Err(errno).with_context(|| format!("remove interface {name}")),
        }
    }

    /// Gives an interface an address. An IPv6 one is usable at once: it is not looked for among
    /// the neighbours first.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let family = family(address);
        let mut message = Message(vec![family, prefix, 0, RT_SCOPE_UNIVERSE]);
        message.0.extend_from_slice(&index.to_ne_bytes());
        message.address(IFA_LOCAL, address);
        message.address(IFA_ADDRESS, address);
        if address.is_ipv6() {
            message.number(IFA_FLAGS, IFA_F_NODAD);
        }
        self.tell(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &message)
            .with_context(|| format!("give interface {index} address {address}/{prefix}"))
    }

    /// Makes the default route of an address family by a gateway that is taken to be on the link,
    /// whatever the interface's prefix.
    pub fn add_default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        let mut message = Message(vec![
            family(gateway),
            0,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            RT_SCOPE_UNIVERSE,
            RTN_UNICAST,
        ]);
        message.0.extend_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        message.address(RTA_GATEWAY, gateway);
        message.number(RTA_OIF, index);
        self.tell(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message)
            .with_context(|| format!("make the default route by {gateway}"))
    }

    /// The unicast routes of all tables.
    pub fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut message = Message(vec![0; 12]);
            message.0[0] = family;
            match self.ask(RTM_GETROUTE, NLM_F_DUMP, &message) {
                Ok(answers) => routes.extend(answers.iter().filter_map(|body| parse_route(body))),
                // A kernel without IPv6.
                Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) if family == AF_INET6 => {}
                Err(errno) => return Err(errno).context("list the routes"),
            }
        }
        Ok(routes)
    }

    fn tell(&self, kind: u16, flags: u16, message: &Message) -> Result<()> {
        match self.ask(kind, flags | NLM_F_ACK, message) {
            Ok(_) => Ok(()),
            Err(errno) => bail!("{} ({errno})", errno.desc()),
        }
    }

    /// Sends a request and gathers the bodies of the answers until its end or acknowledgement.
    fn ask(&self, kind: u16, flags: u16, message: &Message) -> Result<Vec<Vec<u8>>, Errno> {
        let mut answers = Vec::new();
        self.each(kind, flags, message, |body| answers.push(body.to_vec()))?;
        Ok(answers)
    }

    /// The same, with the bodies given to `take` as they come.
    pub fn each(
        &self,
        kind: u16,
        flags: u16,
        message: &Message,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        let (sequence, mut request) = (self.number(), Vec::new());
        append(&mut request, kind, flags, sequence, message);
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let many = flags & NLM_F_DUMP == NLM_F_DUMP;
        // As large as the kernel's own dump buffer, so that nothing is cut.
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..count];
            while let Some((answer, after)) = split_message(rest) {
                rest = after;
                if answer.sequence != sequence {
                    continue;
                }
                match answer.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match read_i32(answer.body) {
                            Some(0) => Ok(()),
                            Some(code) => Err(Errno::from_raw(-code)),
                            None => Err(Errno::EBADMSG),
                        };
                    }
                    _ => take(answer.body),
                }
                if !many && flags & NLM_F_ACK == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Sends messages that count together or not at all (each with its kind and flags), and waits for
    /// what those with an acknowledgement come to.
    pub fn batch(&self, messages: &[(u16, u16, &Message)]) -> Result<(), Errno> {
        let (mut request, mut awaited) = (Vec::new(), Vec::new());
        for (kind, flags, message) in messages {
            let sequence = self.number();
            append(&mut request, *kind, *flags, sequence, message);
            if flags & NLM_F_ACK != 0 {
                awaited.push(sequence);
            }
        }
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut buffer = vec![0; 8 << 10];
        while !awaited.is_empty() {
            let count = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..count];
            while let Some((answer, after)) = split_message(rest) {
                rest = after;
                if answer.kind != NLMSG_ERROR {
                    continue;
                }
                match read_i32(answer.body) {
                    Some(0) => awaited.retain(|sequence| *sequence != answer.sequence),
                    // One that fails undoes the others.
                    Some(code) => return Err(Errno::from_raw(-code)),
                    None => return Err(Errno::EBADMSG),
                }
            }
        }
        Ok(())
    }

    fn number(&self) -> u32 {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        sequence
    }
}

/// Adds a request with its header.
fn append(request: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, message: &Message) {
    request.extend_from_slice(&((HEADER + message.0.len()) as u32).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&message.0);
}

struct Answer<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

fn split_message(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let message = bytes.get(..length)?;
    let answer = Answer {
        kind: u16::from_ne_bytes(*message.get(4..)?.first_chunk()?),
        sequence: u32::from_ne_bytes(*message.get(8..)?.first_chunk()?),
        body: message.get(HEADER..)?,
    };
    Some((answer, bytes.get(align(length)..).unwrap_or_default()))
}

/// A request's body: a fixed struct, then attributes.
pub struct Message(Vec<u8>);

impl Message {
    /// struct ifinfomsg; `up` sets the flags that it has and leaves the others.
    fn link(index: u32, up: u32) -> Self {
        let mut body = vec![0; 4];
        for field in [index, up, up] {
            body.extend_from_slice(&field.to_ne_bytes());
        }
        Self(body)
    }

    /// struct nfgenmsg.
    pub fn generic(family: u8) -> Self {
        Self(vec![family, 0, 0, 0])
    }

    /// A body that is made already.
    pub fn raw(body: &[u8]) -> Self {
        Self(body.to_vec())
    }

    /// The body.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds an attribute whose value is made already.
    pub fn nested_bytes(&mut self, kind: u16, value: &[u8], nested: bool) {
        let flag = if nested { NLA_F_NESTED } else { 0 };
        self.bytes(kind | flag, value);
    }

    /// Adds an attribute.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.0
            .extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
    }

    /// Adds an attribute that ends with a zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    fn address(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    /// Adds an attribute made of attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        fill(&mut inner);
        self.bytes(kind | NLA_F_NESTED, &inner.0);
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn read_i32(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.first_chunk()?))
}

/// Kinds and values of the attributes in `bytes`.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = read_i32(body.get(4..)?)? as u32;
    let mut link = Link {
        index,
        name: String::new(),
        kind: String::new(),
        mtu: 0,
        master: 0,
        alias: String::new(),
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_MTU => link.mtu = read_i32(value)? as u32,
            IFLA_MASTER => link.master = read_i32(value)? as u32,
            IFLA_LINKINFO => {
                let found = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = found.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, _, _, _, kind] = *body.first_chunk()?;
    if kind != RTN_UNICAST {
        return None;
    }
    let mut route = Route {
        destination: match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            _ => Ipv6Addr::UNSPECIFIED.into(),
        },
        prefix,
        interface: 0,
    };
    for (kind, value) in attributes(body.get(12..)?) {
        match (kind, value.len()) {
            (RTA_DST, 4) => route.destination = IpAddr::from(*value.first_chunk::<4>()?),
            (RTA_DST, 16) => route.destination = IpAddr::from(*value.first_chunk::<16>()?),
            (RTA_OIF, _) => route.interface = read_i32(value)? as u32,
            _ => {}
        }
    }
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut message = Message(Vec::new());
        message.text(IFLA_IFNAME, "rrun0");
        message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        assert_eq!(message.0.len() % 4, 0);
        let found: Vec<_> = attributes(&message.0).map(|(kind, _)| kind).collect();
        assert_eq!(found, [IFLA_IFNAME, IFLA_LINKINFO]);
    }

    #[test]
    fn cut_bytes_end_the_attributes() {
        let mut message = Message(Vec::new());
        message.text(IFLA_IFNAME, "rrun0");
        for length in 0..message.0.len() {
            assert!(attributes(&message.0[..length]).count() <= 1);
        }
    }

    #[test]
    fn the_loopback_is_found() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!((lo.index, lo.name.as_str()), (1, "lo"));
        assert!(netlink.links().unwrap().contains(&lo));
        assert_eq!(netlink.link("rrun-none").unwrap(), None);
    }
}
