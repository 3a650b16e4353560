//! Huge pages: how much of each size the machine has, and which one a volume is made of.
//!
//! Their resources are named by the size of a page (`hugepages-2Mi`) and count bytes. The kernel tells of
//! them below `/sys/kernel/mm/hugepages` (Documentation/admin-guide/mm/hugetlbpage.rst).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::memory::every_container;
use crate::quantity;

const MACHINE: &str = "/sys/kernel/mm/hugepages";

/// Before the size of a page, in the names of resources and in the kernel's.
pub const RESOURCE: &str = "hugepages-";

const MEDIUM: &str = "HugePages";

/// Bytes that the machine has set aside, by resource; none of a size that it could have is zero.
pub fn on_machine() -> BTreeMap<String, i64> {
    below(Path::new(MACHINE))
}

fn below(dir: &Path) -> BTreeMap<String, i64> {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
    let read = sizes.filter_map(|size| {
        let kib = size.file_name().into_string().ok()?;
        let kib = kib.strip_prefix(RESOURCE)?.strip_suffix("kB")?;
        let page = kib.parse::<i64>().ok()?.checked_mul(1024)?;
        let count = fs::read_to_string(size.path().join("nr_hugepages")).ok()?;
        let bytes = count.trim().parse::<i64>().ok()?.checked_mul(page)?;
        Some((
            format!("{RESOURCE}{}", quantity::format(page, RESOURCE)),
            bytes,
        ))
    });
    read.collect()
}

/// Bytes of a page of an emptyDir's medium: `HugePages-2Mi`, or `HugePages` where the pod asks for one
/// size alone. Only pages that a container asks for are the pod's to use.
///
/// # Errors
///
/// Why there is no such page, in one line.
pub fn page(medium: &str, pod: &Pod) -> Result<i64, String> {
    let containers = every_container(pod);
    let sizes: BTreeSet<&str> = containers.iter().flat_map(sizes).collect();
    let named = match medium.strip_prefix(MEDIUM) {
        Some("") => None,
        Some(rest) => rest.strip_prefix('-'),
        None => return Err(format!("unknown storage medium {medium:?}")),
    };
    let asked = sizes.iter().copied().collect::<Vec<_>>().join(", ");
    let size = match (named, sizes.len()) {
        (_, 0) => return Err(format!("medium {medium}: no container asks for huge pages")),
        (None, 1) => sizes.first().copied().unwrap_or_default(),
        (None, _) => {
            return Err(format!(
                "medium {medium}: containers ask for pages of {asked}: name one"
            ));
        }
        (Some(size), _) if sizes.contains(size) => size,
        (Some(_), _) => {
            return Err(format!(
                "medium {medium}: containers ask for pages of {asked} alone"
            ));
        }
    };
    quantity::value(&Quantity(size.to_owned()))
        .ok_or_else(|| format!("medium {medium}: {size:?} is no size"))
}

/// Sizes of pages that a container asks for.
fn sizes(container: &Container) -> impl Iterator<Item = &str> {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref());
    let limits = resources.and_then(|r| r.limits.as_ref());
    let names = requests.into_iter().chain(limits).flat_map(BTreeMap::keys);
    names.filter_map(|name| name.strip_prefix(RESOURCE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_machines_pages_are_told_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n")] {
            let size = dir.path().join(name);
            fs::create_dir(&size).unwrap();
            fs::write(size.join("nr_hugepages"), count).unwrap();
        }
        fs::create_dir(dir.path().join("other")).unwrap();
        let all = below(dir.path());
        let expected = [("hugepages-1Gi", 0), ("hugepages-2Mi", 6 << 20)];
        assert_eq!(all, expected.map(|(name, n)| (name.to_owned(), n)).into());
        assert!(below(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn a_volume_is_made_of_pages_that_the_pod_asks_for() {
        let pod = |sizes: &[&str]| -> Pod {
            let limits: BTreeMap<String, &str> = sizes
                .iter()
                .map(|size| (format!("hugepages-{size}"), "1Gi"))
                .collect();
            let container = json!({"name": "c", "resources": {"limits": limits}});
            serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap()
        };
        let (none, one, two) = (pod(&[]), pod(&["2Mi"]), pod(&["2Mi", "1Gi"]));
        assert_eq!(page("HugePages", &one), Ok(2 << 20));
        assert_eq!(page("HugePages-1Gi", &two), Ok(1 << 30));
        for (medium, pod, why) in [
            ("HugePages", &none, "no container asks"),
            ("HugePages", &two, "name one"),
            ("HugePages-1Gi", &one, "2Mi alone"),
            ("HugePagesX", &none, "no container asks"),
            ("Disk", &one, "unknown storage medium \"Disk\""),
        ] {
            let said = page(medium, pod).unwrap_err();
            assert!(said.contains(why), "{medium}: {said}");
        }
    }
}
