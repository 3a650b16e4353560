//! rdma: handles and objects of RDMA devices.

use super::write::Write;
use oci_spec::runtime::LinuxRdma;
use std::collections::HashMap;

/// The same on both versions.
pub fn writes(devices: &HashMap<String, LinuxRdma>, writes: &mut Vec<Write>) {
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limit) in devices {
        let mut value = name.clone();
        if let Some(handles) = limit.hca_handles() {
            value += " hca_handle=";
            value += &handles.to_string();
        }
        if let Some(objects) = limit.hca_objects() {
            value += " hca_object=";
            value += &objects.to_string();
        }
        writes.push(Write::new("rdma.max", value));
    }
}
