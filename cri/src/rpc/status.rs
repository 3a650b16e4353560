//! Status: the conditions that a kubelet needs before it runs pods.

use std::collections::HashMap;
use std::sync::Arc;

use rrun_cri_api::v1;
use serde_json::json;

use crate::daemon::Daemon;
use crate::error::Result;

/// RuntimeReady and NetworkReady, and what the runtime handlers can do.
pub async fn handle(
    daemon: &Arc<Daemon>,
    request: v1::StatusRequest,
) -> Result<v1::StatusResponse> {
    let network = daemon.network.status().await;
    let kernel = kernel();
    let user_namespaces = user_namespaces(kernel);
    let mut info = HashMap::new();
    if request.verbose {
        let config = &daemon.config;
        let text = json!({
            "root": config.root, "state": config.state, "store": config.store,
            "runtimes": daemon.live().runtimes().map(|r| (r.name.clone(), &r.path))
                .map(|(name, path)| (name, json!(path)))
                .collect::<serde_json::Map<_, _>>(),
            "cgroupVersion": if daemon.cgroups.unified { 2 } else { 1 },
            "network": network.message,
        });
        info.insert("config".to_owned(), text.to_string());
        info.insert("pulls".to_owned(), json!(daemon.pulls.list()).to_string());
    }
    Ok(v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                runtime_ready(daemon),
                condition(
                    "NetworkReady",
                    network.ready,
                    &network.reason,
                    &network.message,
                ),
            ],
        }),
        info,
        runtime_handlers: handlers(daemon, kernel, user_namespaces),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: user_namespaces,
        }),
    })
}

/// The default under no name, and each under its own.
fn handlers(daemon: &Daemon, kernel: (u32, u32), user_namespaces: bool) -> Vec<v1::RuntimeHandler> {
    let live = daemon.live();
    let names = live.runtimes().map(|runtime| runtime.name.clone());
    let handler = |name| v1::RuntimeHandler {
        name,
        features: Some(v1::RuntimeHandlerFeatures {
            // mount_setattr(2).
            recursive_read_only_mounts: kernel >= (5, 12),
            user_namespaces,
        }),
    };
    std::iter::once(String::new())
        .chain(names)
        .map(handler)
        .collect()
}

/// Version of the kernel.
fn kernel() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_os_string());
    let release = release.unwrap_or_default();
    let mut parts = release.to_str().unwrap_or_default().split(['.', '-']);
    let mut number = || {
        parts
            .next()
            .and_then(|n| n.parse::<u32>().ok())
            .unwrap_or(0)
    };
    (number(), number())
}

/// The kernel makes user namespaces, and overlays of id-mapped layers (5.19).
fn user_namespaces(kernel: (u32, u32)) -> bool {
    let allowed = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    kernel >= (5, 19) && allowed.is_ok_and(|n| n.trim() != "0")
}

/// The programs that this one was started with may have been removed since.
fn runtime_ready(daemon: &Daemon) -> v1::RuntimeCondition {
    let live = daemon.live();
    let programs = live.runtimes().flat_map(|r| {
        let behind = r.behind.iter().map(|behind| &behind.program);
        [&r.path, &r.shim].into_iter().chain(behind)
    });
    for program in programs {
        if !program.is_file() && !program.as_os_str().is_empty() {
            let message = format!("{} is gone", program.display());
            return condition("RuntimeReady", false, "ProgramMissing", &message);
        }
    }
    condition("RuntimeReady", true, "", "")
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message: message.into(),
    }
}
