//! What a container of a user who is not root has otherwise: its ids mapped, and nothing that
//! only root of the machine may ask for. `rrun spec --rootless` makes the same choices.

use oci_spec::runtime as oci;

use super::{invalid, mount};
use crate::identity::{IdMap, IdMaps};
use crate::{Error, Result};

/// Makes a configuration one that its user can run. Limits that were asked for stay: where no
/// cgroup is delegated to the user, the runtime says so.
pub(super) fn adapt(spec: &mut oci::Spec, maps: &IdMaps) -> Result<()> {
    without_root(spec, maps)?;
    let linux = spec.linux_mut().as_mut().expect("spec() gives it one");
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let kind = oci::LinuxNamespaceType::User;
    let namespace = oci::LinuxNamespaceBuilder::default().typ(kind).build();
    namespaces.push(namespace.map_err(invalid)?);
    linux.set_namespaces(Some(namespaces));
    linux.set_uid_mappings(Some(mappings(&maps.uids)?));
    linux.set_gid_mappings(Some(mappings(&maps.gids)?));
    Ok(())
}

/// The same for a container that stays in this process's user namespace.
pub(super) fn without_root(spec: &mut oci::Spec, maps: &IdMaps) -> Result<()> {
    user(spec, maps)?;
    let linux = spec.linux_mut().as_mut().expect("spec() gives it one");
    let own_network = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == oci::LinuxNamespaceType::Network);
    let resources = linux.resources_mut().as_mut();
    let limited = resources.is_some_and(|resources| {
        // Devices cannot be made in a user namespace; who may not make them need not be denied them.
        resources.set_devices(None);
        let (memory, cpu, pids) = (resources.memory(), resources.cpu(), resources.pids());
        memory.is_some() || cpu.is_some() || pids.is_some()
    });
    if !limited {
        linux.set_resources(None);
    }
    let mounts = spec.mounts_mut().as_mut().expect("spec() gives it some");
    for m in mounts {
        let to = m.destination().display().to_string();
        let options = m.options().clone().unwrap_or_default();
        match to.as_str() {
            // The group of terminals, where it is mapped.
            "/dev/pts" if !maps.has_gid(5) => {
                let options = options.into_iter().filter(|o| o != "gid=5").collect();
                m.set_options(Some(options));
            }
            // A sysfs shows the network namespace, which the user does not own.
            "/sys" if !own_network => {
                let options = [vec!["rbind".to_owned()], options].concat();
                *m = mount("/sys", "none", "/sys", options)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn mappings(maps: &[IdMap]) -> Result<Vec<oci::LinuxIdMapping>> {
    let mapping = |map: &IdMap| {
        oci::LinuxIdMappingBuilder::default()
            .container_id(map.inside)
            .host_id(map.outside)
            .size(map.length)
            .build()
            .map_err(invalid)
    };
    maps.iter().map(mapping).collect()
}

/// The process's ids must be mapped. Groups beside its own are dropped where setgroups(2) is
/// (user_namespaces(7): without newgidmap), and those that are not mapped.
fn user(spec: &mut oci::Spec, maps: &IdMaps) -> Result<()> {
    let process = spec.process_mut().as_mut().expect("spec() gives it one");
    let user = process.user_mut();
    let (uid, gid) = (user.uid(), user.gid());
    if !maps.has_uid(uid) || !maps.has_gid(gid) {
        return Err(Error::unsupported(
            format!("user {uid}:{gid} of the container"),
            "no such id is lent to this user: see /etc/subuid and /etc/subgid (with newuidmap and \
             newgidmap, package uidmap), or take --user 0",
        ));
    }
    let groups = user.additional_gids().clone().unwrap_or_default();
    let groups = groups
        .into_iter()
        .filter(|&gid| maps.gids.len() > 1 && maps.has_gid(gid))
        .collect::<Vec<_>>();
    user.set_additional_gids((!groups.is_empty()).then_some(groups));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BundleOptions, Image, UserIds};

    fn spec(user: &UserIds, options: &BundleOptions) -> oci::Spec {
        let image = Image::of_draft(&crate::draft::Draft {
            config: crate::ImageConfig::default(),
            extra: std::collections::BTreeMap::new(),
            platform: crate::Platform::host(),
            layers: Vec::new(),
            history: Vec::new(),
            created: String::new(),
        });
        super::super::plain(&image, user, None, options).unwrap()
    }

    fn map(outside: u32, inside: u32, length: u32) -> IdMap {
        IdMap {
            inside,
            outside,
            length,
        }
    }

    #[test]
    fn a_user_without_ranges_is_root_alone() {
        let options = BundleOptions {
            args: vec!["sh".into()],
            host_network: true,
            ..BundleOptions::default()
        };
        let maps = IdMaps {
            uids: vec![map(1000, 0, 1)],
            gids: vec![map(1000, 0, 1)],
        };
        let root = UserIds {
            additional_gids: vec![1, 2],
            ..UserIds::default()
        };
        let mut spec = spec(&root, &options);
        adapt(&mut spec, &maps).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.resources().is_none());
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        let text = serde_json::to_string(&spec).unwrap();
        assert!(!text.contains("gid=5") && text.contains("rbind"), "{text}");
        assert!(!text.contains("additionalGids"), "{text}");
        let web = UserIds {
            uid: 33,
            ..UserIds::default()
        };
        let mut spec = super::tests::spec(&web, &options);
        assert!(
            adapt(&mut spec, &maps)
                .unwrap_err()
                .to_string()
                .contains("subuid")
        );
    }

    #[test]
    fn limits_and_groups_that_can_be_stay() {
        let options = BundleOptions {
            args: vec!["sh".into()],
            pids: Some(7),
            ..BundleOptions::default()
        };
        let both = vec![map(1000, 0, 1), map(100_000, 1, 65536)];
        let maps = IdMaps {
            uids: both.clone(),
            gids: both,
        };
        let web = UserIds {
            uid: 33,
            gid: 33,
            additional_gids: vec![4, 70_000],
            ..UserIds::default()
        };
        let mut spec = spec(&web, &options);
        adapt(&mut spec, &maps).unwrap();
        let resources = spec.linux().as_ref().unwrap().resources().as_ref().unwrap();
        assert!(resources.pids().is_some() && resources.devices().is_none());
        let user = spec.process().as_ref().unwrap().user();
        assert_eq!(user.additional_gids().as_deref(), Some(&[4][..]));
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains("gid=5") && !text.contains("rbind"), "{text}");
    }
}
