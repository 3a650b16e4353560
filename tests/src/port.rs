//! Loopback ports that nobody else takes while a test has them.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU64, Ordering};

/// A TCP port of 127.0.0.1 for a program that takes its port by number, also for one that ends and
/// takes the same port again.
///
/// "Bind port 0, look which it is, close it" gives ports that the kernel hands to the next
/// connection of anybody. This one is outside of the kernel's range for that, and no other
/// `Port` of any process has it: an abstract unix socket, which the kernel forgets with its
/// process, says so. What else listens on the machine was asked too. Somebody who is none of ours
/// may still take it by number, so who starts a program on it looks whether it came up.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _hold: UnixListener,
}

impl Port {
    /// A port that is free.
    ///
    /// # Panics
    ///
    /// Where none of some thousands is.
    pub fn take() -> Self {
        let candidates = candidates(&ephemeral());
        let start = start() % candidates.len();
        let mut order = candidates[start..].iter().chain(&candidates[..start]);
        let found = order.find_map(|&number| Self::hold(number));
        found.expect("a loopback port is free")
    }

    fn hold(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("rrun-tests/port/{number}"));
        let hold = UnixListener::bind_addr(&name.ok()?).ok()?;
        // All addresses: a listener on any of them may be in the way.
        TcpListener::bind(("0.0.0.0", number)).ok()?;
        Some(Self {
            number,
            _hold: hold,
        })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// The ports that the kernel gives to who asks for any (ip_local_port_range).
fn ephemeral() -> std::ops::RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let numbers: Vec<u16> = text
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [low, high] => low..=high,
        _ => 32_768..=60_999,
    }
}

/// Below the ports of Kubernetes' Services (30000 to 32767), and none that the kernel gives away
/// where there are enough others.
fn candidates(ephemeral: &std::ops::RangeInclusive<u16>) -> Vec<u16> {
    let outside: Vec<u16> = (15_000..30_000)
        .filter(|port| !ephemeral.contains(port))
        .collect();
    if outside.len() < 1000 {
        return (15_000..30_000).collect();
    }
    outside
}

/// Spreads processes and calls, so that they rarely ask for the same.
fn start() -> usize {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let calls = CALLS.fetch_add(1, Ordering::Relaxed);
    let spread = u64::from(std::process::id()).wrapping_mul(7919) + calls.wrapping_mul(31);
    usize::try_from(spread).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gets_a_port_that_is_held() {
        let ports: Vec<Port> = (0..50).map(|_| Port::take()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        let first = ports[0].number();
        assert!(Port::hold(first).is_none());
        TcpListener::bind(("127.0.0.1", first)).unwrap();
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_given() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        assert!(Port::hold(number).is_none());
    }

    #[test]
    fn ports_that_the_kernel_gives_away_are_left_out() {
        assert!(candidates(&(20_000..=60_999)).iter().all(|p| *p < 20_000));
        assert_eq!(candidates(&(1024..=65_535)).len(), 15_000);
        assert_eq!(candidates(&(32_768..=60_999)).len(), 15_000);
    }
}
