//! Version.

use std::sync::Arc;

use rrun_cri_api::v1;

use crate::daemon::Daemon;
use crate::error::Result;

/// The name and version of this program, and of the interface.
pub async fn handle(_: &Arc<Daemon>, _: v1::VersionRequest) -> Result<v1::VersionResponse> {
    Ok(v1::VersionResponse {
        // The version of the kubelet's side, fixed since CRI's first days.
        version: "0.1.0".into(),
        runtime_name: "rrun-cri".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    })
}
