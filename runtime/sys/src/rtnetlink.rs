//! rtnetlink(7): interfaces and their addresses, one request at a time.

use crate::error::Call;
use crate::{Errno, Error, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
/// `NLM_F_REQUEST`, `_ACK`, `_ROOT | _MATCH`, `_CREATE | _EXCL`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x600;
/// `IFLA_IFNAME`, `IFLA_NET_NS_FD`.
const IFNAME: u16 = 3;
const NET_NS_FD: u16 = 28;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `IFA_F_PERMANENT`.
const PERMANENT: u8 = 0x80;

/// A socket to the kernel, bound to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Route {
    fd: OwnedFd,
}

/// An address of an interface, to be given to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `AF_INET` or `AF_INET6`, prefix length, flags, scope.
    head: [u8; 4],
    /// Attributes: number and value.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Whether it was configured by somebody, rather than leased or automatic.
    pub fn is_permanent(&self) -> bool {
        self.head[2] & PERMANENT != 0
    }

    /// Whether it means something beyond the link and the host (`RT_SCOPE_UNIVERSE`).
    pub fn is_global(&self) -> bool {
        self.head[3] == 0
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((value.len() as u16 + 4).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut list = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]);
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        list.push((kind, value.to_vec()));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    list
}

/// `struct ifinfomsg`.
fn link_message(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(change.to_ne_bytes());
    body
}

fn name_bytes(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

impl Route {
    /// Opens one in the caller's network namespace.
    pub fn open() -> Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .call("socket", format_args!("AF_NETLINK, NETLINK_ROUTE"))?;
        Ok(Self { fd })
    }

    /// Sends a request; the messages of its answer.
    fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        what: std::fmt::Arguments<'_>,
    ) -> Result<Vec<Vec<u8>>> {
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty()).call("send", what)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            let length =
                recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).call("recv", what)?;
            let mut rest = &buffer[..length];
            while let Some((kind, payload, after)) = split(rest) {
                rest = after;
                match kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        let code = payload
                            .get(..4)
                            .map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                        if code == 0 {
                            return Ok(answers);
                        }
                        return Err(Error::new("rtnetlink", what, Errno(-code)));
                    }
                    _ => answers.push(payload.to_vec()),
                }
            }
        }
    }

    /// The index of interface `name`; ENODEV when there is none.
    pub fn index(&self, name: &str) -> Result<u32> {
        let mut body = link_message(0, 0, 0);
        attribute(&mut body, IFNAME, &name_bytes(name));
        let what = format_args!("find interface {name}");
        let answers = self.request(GETLINK, ACK, &body, what)?;
        answers
            .first()
            .and_then(|a| a.get(4..8))
            .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
            .ok_or_else(|| Error::new("rtnetlink", what, Errno(libc::ENODEV)))
    }

    /// Sets an interface up or down.
    pub fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let flag = libc::IFF_UP as u32;
        let body = link_message(index, if up { flag } else { 0 }, flag);
        let what = format_args!("set interface {index} {}", if up { "up" } else { "down" });
        self.request(NEWLINK, ACK, &body, what).map(drop)
    }

    /// Moves an interface to another network namespace, where it is called `name`.
    pub fn move_to(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> Result<()> {
        let mut body = link_message(index, 0, 0);
        attribute(&mut body, IFNAME, &name_bytes(name));
        attribute(
            &mut body,
            NET_NS_FD,
            &(namespace.as_raw_fd() as u32).to_ne_bytes(),
        );
        let what = format_args!("move interface {index} as {name}");
        self.request(NEWLINK, ACK, &body, what).map(drop)
    }

    /// The addresses of an interface.
    pub fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let answers = self.request(GETADDR, DUMP, &[0; 8], format_args!("list addresses"))?;
        let of_it = |a: &&Vec<u8>| a.get(4..8) == Some(&index.to_ne_bytes()[..]);
        let address = |a: &Vec<u8>| Address {
            head: [a[0], a[1], a[2], a[3]],
            attributes: attributes(&a[8..]),
        };
        Ok(answers
            .iter()
            .filter(of_it)
            .filter(|a| a.len() >= 8)
            .map(address)
            .collect())
    }

    /// Gives an interface an address: its own part (`IFA_ADDRESS`, `IFA_LOCAL`, `IFA_BROADCAST`).
    pub fn add_address(&self, index: u32, address: &Address) -> Result<()> {
        let [family, prefix, _, scope] = address.head;
        let mut body = vec![family, prefix, 0, scope];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            if matches!(kind, 1 | 2 | 4) {
                attribute(&mut body, *kind, value);
            }
        }
        let what = format_args!("add an address to interface {index}");
        self.request(NEWADDR, ACK | CREATE, &body, what).map(drop)
    }
}

/// The first message: type, payload, what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let head = bytes.get(..16)?;
    let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let payload = bytes.get(16..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([head[4], head[5]]), payload, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_there_and_back() {
        let mut body = Vec::new();
        attribute(&mut body, IFNAME, b"eth0\0");
        attribute(&mut body, 28, &7u32.to_ne_bytes());
        assert_eq!(body.len(), 12 + 8);
        assert_eq!(
            attributes(&body),
            [
                (IFNAME, b"eth0\0".to_vec()),
                (28, 7u32.to_ne_bytes().to_vec())
            ]
        );
        assert!(attributes(&[1, 0, 0]).is_empty());
        // A length that lies.
        assert!(attributes(&[255, 0, 1, 0]).is_empty() && attributes(&[0, 0, 1, 0]).is_empty());
    }

    #[test]
    fn the_loopback_is_found() {
        let route = Route::open().unwrap();
        assert_eq!(route.index("lo").unwrap(), 1);
        assert!(route.index("no-such-if").is_err());
    }
}
