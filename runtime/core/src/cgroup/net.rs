//! net_cls and net_prio: class and priorities of network traffic (v1 alone).

use super::write::Write;
use oci_spec::runtime::LinuxNetwork;

/// Writes of v1.
pub fn legacy(network: &LinuxNetwork, writes: &mut Vec<Write>) {
    if let Some(class) = network.class_id().filter(|c| *c != 0) {
        writes.push(Write::new("net_cls.classid", class));
    }
    for priority in network.priorities().iter().flatten() {
        let value = format!("{} {}", priority.name(), priority.priority());
        writes.push(Write::new("net_prio.ifpriomap", value));
    }
}
