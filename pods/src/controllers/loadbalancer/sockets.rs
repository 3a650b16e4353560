//! What programs of the machine listen on (proc_net(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket that takes what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Where it listens.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
}

impl Listening {
    /// Whether it takes what comes to one of these addresses.
    pub fn covers(&self, addresses: &[IpAddr]) -> bool {
        let own = self.address.to_canonical();
        own.is_unspecified() || addresses.contains(&own)
    }
}

/// Everything that listens now in the network of this process.
pub fn listening() -> Vec<Listening> {
    let files = [
        ("tcp", "TCP"),
        ("tcp6", "TCP"),
        ("udp", "UDP"),
        ("udp6", "UDP"),
    ];
    let read = |(file, protocol)| {
        let text = std::fs::read_to_string(format!("/proc/self/net/{file}"));
        parse(&text.unwrap_or_default(), protocol)
    };
    files.into_iter().flat_map(read).collect()
}

/// One file: sockets of TCP that listen (state 0A), of UDP that have no peer.
fn parse(text: &str, protocol: &'static str) -> Vec<Listening> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
        let takes = match protocol {
            "TCP" => state == "0A",
            _ => peer.ends_with(":0000"),
        };
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok().filter(|_| takes)?;
        Some(Listening {
            protocol,
            address: parse_address(address)?,
            port,
        })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Words of 32 bits as this machine has them in memory, in hexadecimal.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, part) in bytes.chunks_mut(4).enumerate() {
                part.copy_from_slice(&word(i * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = listening();
        let has = |protocol, address: std::net::SocketAddr| {
            let wanted = Listening {
                protocol,
                address: address.ip(),
                port: address.port(),
            };
            found.contains(&wanted)
        };
        assert!(has("TCP", listener.local_addr().unwrap()), "{found:?}");
        assert!(has("UDP", socket.local_addr().unwrap()));
        assert!(parse("sl local rem st\nx\n0: zz:1 a:0 0A\n", "TCP").is_empty());
    }
}
