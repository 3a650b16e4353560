//! VolumeBinding: a pod's claims are bound, and their volumes can be had on the node.

use super::{Cycle, Filter, matches_selector};
use crate::scheduler::snapshot::{Claim, NodeInfo, PodInfo, Snapshot};

pub(super) const FILTER: Filter = Filter {
    name: "VolumeBinding",
    filter,
    resolvable: false,
};

/// The claims that the pod names, with what is known of each.
fn claims<'a>(
    pod: &'a PodInfo,
    world: &'a Snapshot,
) -> impl Iterator<Item = (&'a str, Option<&'a Claim>)> {
    let volumes = pod.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let names = volumes.filter_map(|v| v.persistent_volume_claim.as_ref());
    names.map(|c| {
        let key = (pod.key().0.to_owned(), c.claim_name.clone());
        (c.claim_name.as_str(), world.claims.get(&key))
    })
}

/// Why no node will do.
pub(super) fn before(pod: &PodInfo, world: &Snapshot) -> Result<(), String> {
    for (name, claim) in claims(pod, world) {
        match claim {
            None => return Err(format!("persistentvolumeclaim \"{name}\" not found")),
            Some(Claim::Unbound) => {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether volumes are being made for the pod: it is placed once they are there.
pub fn waits(pod: &PodInfo, world: &Snapshot) -> bool {
    claims(pod, world).any(|(_, claim)| claim == Some(&Claim::Waits))
}

fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Vec<String>> {
    for (_, claim) in claims(cycle.pod, cycle.world) {
        if let Some(Claim::Bound(Some(selector))) = claim
            && !matches_selector(selector, node)
        {
            return Err(vec![
                "node(s) didn't match PersistentVolume's node affinity".to_owned(),
            ]);
        }
    }
    Ok(())
}
