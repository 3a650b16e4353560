//! NodePorts: a host port is given once per address and protocol.

use super::{Cycle, Filter};
use crate::scheduler::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter {
    name: "NodePorts",
    filter,
    resolvable: true,
};

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    let pod = cycle.pod;
    let taken = |(ip, protocol, port): &(String, String, i32)| {
        node.ports.iter().any(|(used_ip, used_protocol, used)| {
            used == port
                && used_protocol == protocol
                && (ip.is_empty() || used_ip.is_empty() || ip == used_ip)
        })
    };
    if pod.ports.iter().any(taken) {
        return Err(vec![
            "node(s) didn't have free ports for the requested pod ports".to_owned(),
        ]);
    }
    Ok(())
}
