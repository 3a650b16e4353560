//! How many scheduling decisions a second: simulated nodes and pods, nothing else.
//!
//!     cargo run --release -p rrun-pods --example schedule -- [NODES] [PODS] [DECISIONS]
//!
//! Fills NODES with PODS, then decides for DECISIONS more, each placed before the next, and prints
//! the processor time of one thread per decision.

use std::sync::Arc;
use std::time::Duration;

use rrun_pods::scheduler::{PodInfo, Snapshot, schedule};
use serde_json::json;

fn pod(name: usize, node: Option<&str>) -> anyhow::Result<PodInfo> {
    let (cpu, memory) = ([50, 100, 200][name % 3], [64, 128, 256][name % 3]);
    let requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")});
    let pod = json!({"metadata": {"name": format!("p{name}"), "namespace": "default", "labels": {"app": format!("a{}", name % 50)}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}});
    Ok(PodInfo::new(serde_json::from_value(pod)?))
}

/// How long this thread, the only one, has had a processor.
fn ran() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let first = text.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(first.parse()?))
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let mut next = |default: usize| args.next().unwrap_or(Ok(default));
    let (nodes, pods, decisions) = (next(10_000)?, next(100_000)?, next(10_000)?);
    let mut world = Snapshot::default();
    for i in 0..nodes {
        let name = format!("n{i:05}");
        world.put_node(serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": format!("z{}", i % 10)}},
            "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"}}
        }))?);
    }
    for i in 0..pods {
        world.place(Arc::new(pod(i, Some(&format!("n{:05}", i % nodes)))?));
    }
    let wanted: Vec<PodInfo> = (0..decisions)
        .map(|i| pod(pods + i, None))
        .collect::<Result<_, _>>()?;
    let (start, mut refused) = (ran()?, 0);
    for info in wanted {
        match schedule(&info, &world) {
            Ok(decision) => {
                world.start = (world.start + decision.looked) % nodes;
                let mut bound = k8s_openapi::api::core::v1::Pod::clone(&info.pod);
                bound.spec.get_or_insert_default().node_name = Some(decision.node);
                world.place(Arc::new(PodInfo::new(bound)));
            }
            Err(_) => refused += 1,
        }
    }
    let spent = ran()?.saturating_sub(start);
    let each = spent / u32::try_from(decisions.max(1))?;
    let rate = 1.0 / each.as_secs_f64();
    println!(
        "{nodes} nodes, {pods} pods, {decisions} decisions ({refused} refused): {each:?} each, {rate:.0} a second on one core"
    );
    Ok(())
}
