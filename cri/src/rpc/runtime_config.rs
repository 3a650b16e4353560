//! RuntimeConfig: what a kubelet follows.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::config::CgroupDriver;
use crate::daemon::Daemon;
use crate::error::Result;

/// The cgroup driver.
pub async fn handle(
    daemon: &Arc<Daemon>,
    _: v1::RuntimeConfigRequest,
) -> Result<v1::RuntimeConfigResponse> {
    let driver = match daemon.config.cgroup_driver {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    Ok(v1::RuntimeConfigResponse {
        linux: Some(v1::LinuxRuntimeConfiguration {
            cgroup_driver: driver as i32,
        }),
    })
}
