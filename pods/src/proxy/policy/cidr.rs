//! Blocks and ranges of addresses of both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block such as `10.0.0.0/8`. Bits beyond the prefix count as zero, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr(Range);

/// Addresses of one family, from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// IPv6.
    pub six: bool,
    /// The lowest.
    pub first: u128,
    /// The highest.
    pub last: u128,
}

impl From<IpAddr> for Range {
    fn from(ip: IpAddr) -> Self {
        let (six, number) = match ip {
            IpAddr::V4(ip) => (false, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (true, ip.to_bits()),
        };
        Self {
            six,
            first: number,
            last: number,
        }
    }
}

impl Range {
    fn address(self, number: u128) -> IpAddr {
        if self.six {
            Ipv6Addr::from_bits(number).into()
        } else {
            // An IPv4 range is made of 32-bit numbers only.
            Ipv4Addr::from_bits(number as u32).into()
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address(self.first))?;
        if self.first != self.last {
            write!(f, "-{}", self.address(self.last))?;
        }
        Ok(())
    }
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = text.split_once('/').ok_or(())?;
        let whole = Range::from(address.parse::<IpAddr>().map_err(|_| ())?);
        let bits = if whole.six { 128 } else { 32 };
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u32 = length.parse().map_err(|_| ())?;
        if !digits || length > bits {
            return Err(());
        }
        let rest = match bits - length {
            128 => u128::MAX,
            free => (1 << free) - 1,
        };
        Ok(Self(Range {
            first: whole.first & !rest,
            last: whole.first | rest,
            ..whole
        }))
    }
}

impl Cidr {
    /// Whether all of the other block is in this one.
    pub fn holds(&self, other: &Self) -> bool {
        let (a, b) = (self.0, other.0);
        a.six == b.six && a.first <= b.first && b.last <= a.last
    }

    /// The block without some of it.
    pub fn without(self, except: &[Self]) -> Vec<Range> {
        let mut left = vec![self.0];
        for hole in except.iter().map(|e| e.0).filter(|e| e.six == self.0.six) {
            left = left.into_iter().flat_map(|r| cut(r, hole)).collect();
        }
        left
    }
}

fn cut(range: Range, hole: Range) -> impl Iterator<Item = Range> {
    let before = (range.first < hole.first).then(|| Range {
        // Not below zero: the hole begins after the range.
        last: range.last.min(hole.first.saturating_sub(1)),
        ..range
    });
    let after = (range.last > hole.last).then(|| Range {
        first: range.first.max(hole.last.saturating_add(1)),
        ..range
    });
    // A hole that does not touch the range leaves it once.
    let whole = (hole.last < range.first || hole.first > range.last).then_some(range);
    let parts = if whole.is_some() {
        [whole, None]
    } else {
        [before, after]
    };
    parts.into_iter().flatten()
}

/// The same addresses in order, each once: what touches is one range.
pub fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.six == range.six && range.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(block: &str, except: &[&str]) -> String {
        let except: Vec<Cidr> = except.iter().map(|e| e.parse().unwrap()).collect();
        let ranges = block.parse::<Cidr>().unwrap().without(&except);
        let ranges = merged(ranges);
        let text: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        text.join(" ")
    }

    #[test]
    fn blocks_have_holes() {
        assert_eq!(shown("10.1.2.3/24", &[]), "10.1.2.0-10.1.2.255");
        assert_eq!(
            shown("10.0.0.0/8", &["10.0.0.0/16", "10.255.255.255/32"]),
            "10.1.0.0-10.255.255.254"
        );
        assert_eq!(shown("10.0.0.0/8", &["10.0.0.0/8"]), "");
        assert_eq!(
            shown("0.0.0.0/0", &["10.0.0.0/8"]),
            "0.0.0.0-9.255.255.255 11.0.0.0-255.255.255.255"
        );
        assert_eq!(
            shown("::/0", &["fd00::/8", "10.0.0.0/8"]),
            "::-fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        for wrong in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "x/8",
            "::/129",
            "10.0.0/8",
            "",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_in_the_block_and_in_no_hole(
            base in any::<u32>(), length in 20_u32..=32,
            holes in prop::collection::vec((any::<u32>(), 22_u32..=32), 0..4),
            probe in any::<u32>(),
        ) {
            let near = |n: u32| (base & 0xffff_f000) | (n & 0xfff);
            let block = |n: u32, l: u32| -> Cidr {
                format!("{}/{l}", Ipv4Addr::from_bits(n)).parse().unwrap()
            };
            let whole = block(base, length);
            let holes: Vec<Cidr> = holes.iter().map(|(n, l)| block(near(*n), *l)).collect();
            let left = merged(whole.without(&holes));
            for probe in [near(probe), base, whole.0.first as u32, whole.0.last as u32] {
                let one = block(probe, 32);
                let inside = whole.holds(&one) && !holes.iter().any(|h| h.holds(&one));
                let number = u128::from(probe);
                let found = left.iter().any(|r| r.first <= number && number <= r.last);
                prop_assert_eq!(inside, found);
            }
        }
    }
}
