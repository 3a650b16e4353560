//! blkio (v1) and io (v2): weights and rates of block devices.

use super::write::{Rule, Write};
use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

/// Writes of v1. CFQ's file names, else BFQ's.
pub fn legacy(io: &LinuxBlockIo, writes: &mut Vec<Write>) {
    let mut either = |cfq: &'static str, bfq: &'static str, value: String| {
        let other = Write::new(bfq, &value);
        writes.push(Write::new(cfq, value).rule(Rule::Else(Box::new(other))));
    };
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        either("blkio.weight", "blkio.bfq.weight", weight.to_string());
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            either("blkio.weight_device", "blkio.bfq.weight_device", value);
        }
    }
    if let Some(weight) = io.leaf_weight().filter(|w| *w != 0) {
        writes.push(Write::new("blkio.leaf_weight", weight));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.leaf_weight().filter(|w| *w != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            writes.push(Write::new("blkio.leaf_weight_device", value));
        }
    }
    for (file, devices) in [
        (
            "blkio.throttle.read_bps_device",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ] {
        throttle(devices.as_deref(), file, "", writes);
    }
}

/// Writes of v2. BFQ's weight has v1's range; io.weight needs a conversion.
pub fn unified(io: &LinuxBlockIo, writes: &mut Vec<Write>) {
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        let other = Write::new("io.weight", weight_of_blkio(weight));
        writes.push(Write::new("io.bfq.weight", weight).rule(Rule::Else(Box::new(other))));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            writes.push(Write::new("io.bfq.weight", value).rule(Rule::IfThere));
        }
    }
    for (key, devices) in [
        ("rbps=", io.throttle_read_bps_device()),
        ("wbps=", io.throttle_write_bps_device()),
        ("riops=", io.throttle_read_iops_device()),
        ("wiops=", io.throttle_write_iops_device()),
    ] {
        throttle(devices.as_deref(), "io.max", key, writes);
    }
}

fn throttle(
    devices: Option<&[LinuxThrottleDevice]>,
    file: &'static str,
    key: &str,
    writes: &mut Vec<Write>,
) {
    for device in devices.into_iter().flatten() {
        let value = format!(
            "{}:{} {key}{}",
            device.major(),
            device.minor(),
            device.rate()
        );
        writes.push(Write::new(file, value));
    }
}

/// io.weight (1 to 10000) for blkio.weight (10 to 1000), linear.
pub fn weight_of_blkio(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_meet_the_ends() {
        assert_eq!(weight_of_blkio(10), 1);
        assert_eq!(weight_of_blkio(1000), 10_000);
        assert_eq!(weight_of_blkio(1), 1);
    }
}
