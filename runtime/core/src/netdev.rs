//! `linux.netDevices`: interfaces of the host that move into the container's network namespace, with
//! their permanent global addresses (runtime-spec 1.3, config-linux.md#network-devices).

use crate::plan::namespaces;
use crate::{Context, Error, Result};
use oci_spec::runtime::Spec;
use rrun_sys::rtnetlink::Route;
use rrun_sys::{ns, path};
use std::os::fd::AsFd;
use std::path::Path;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub host: String,
    /// Its name in the container.
    pub name: String,
}

/// IFNAMSIZ, with the nul byte.
const LONGEST: usize = 16;

fn is_name(name: &str) -> bool {
    let allowed = |c: char| !matches!(c, '/' | ':') && !c.is_whitespace();
    !name.is_empty()
        && name.len() < LONGEST
        && name != "."
        && name != ".."
        && name.chars().all(allowed)
}

/// Checks and orders the list of the configuration.
pub fn from_spec(spec: &Spec, has_namespace: bool) -> Result<Vec<NetDevice>> {
    let configured = spec.linux().as_ref().and_then(|l| l.net_devices().as_ref());
    let mut list: Vec<NetDevice> = Vec::new();
    for (host, device) in configured.into_iter().flatten() {
        let name = device.name().as_deref().filter(|n| !n.is_empty());
        let name = name.unwrap_or(host);
        let field = || format!("linux.netDevices[{host:?}]");
        if let Some(wrong) = [host, name].into_iter().find(|n| !is_name(n)) {
            let why = format!("invalid network device name {wrong:?}");
            return Err(Error::config(field(), why));
        }
        if list.iter().any(|d| d.name == *name) {
            return Err(Error::config(
                field(),
                format!("two devices are to be called {name:?}"),
            ));
        }
        list.push(NetDevice {
            host: host.clone(),
            name: name.to_owned(),
        });
    }
    if !list.is_empty() && !has_namespace {
        return Err(Error::config(
            "linux.netDevices",
            "unable to move network devices without a private NET namespace",
        ));
    }
    list.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(list)
}

/// Moves `devices` into the network namespace of process `pid`.
pub fn move_all(devices: &[NetDevice], pid: i32) -> Result<()> {
    let open = |path: String| path::open(Path::new(&path), path::O_RDONLY);
    let target = open(format!("/proc/{pid}/ns/net"))?;
    let own = open("/proc/self/ns/net".to_owned())?;
    let here = Route::open()?;
    ns::setns(target.as_fd(), namespaces::NET).context("join the container's network namespace")?;
    let there = Route::open();
    ns::setns(own.as_fd(), namespaces::NET).context("return to the network namespace")?;
    let there = there?;
    for device in devices {
        move_one(device, &here, &there, target.as_fd())
            .with_context(|| format!("move network device {}", device.host))?;
    }
    Ok(())
}

fn move_one(
    device: &NetDevice,
    here: &Route,
    there: &Route,
    target: std::os::fd::BorrowedFd<'_>,
) -> Result<()> {
    let index = here.index(&device.host)?;
    // Set down, an IPv6 interface loses its addresses: they are read first.
    let addresses = here.addresses(index)?;
    here.set_up(index, false)?;
    here.move_to(index, target, &device.name)?;
    let index = there.index(&device.name)?;
    for address in addresses
        .iter()
        .filter(|a| a.is_permanent() && a.is_global())
    {
        there.add_address(index, address)?;
    }
    Ok(there.set_up(index, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<Vec<NetDevice>> {
        let text = format!(r#"{{"ociVersion":"1.3.0","linux":{{"netDevices":{json}}}}}"#);
        from_spec(&serde_json::from_str(&text).unwrap(), true)
    }

    #[test]
    fn names_are_checked_and_kept_apart() {
        let list = planned(r#"{"eth1":{"name":"ctr0"},"eth0":{}}"#).unwrap();
        let names: Vec<_> = list.iter().map(|d| (&*d.host, &*d.name)).collect();
        assert_eq!(names, [("eth0", "eth0"), ("eth1", "ctr0")]);
        for wrong in [
            r#"{"a/b":{}}"#,
            r#"{"eth0":{"name":".."}}"#,
            r#"{"eth0":{"name":"a b"}}"#,
            r#"{"eth0":{"name":"sixteen_letters_"}}"#,
            r#"{"eth0":{"name":"x"},"eth1":{"name":"x"}}"#,
        ] {
            assert!(planned(wrong).is_err(), "{wrong}");
        }
        let spec =
            serde_json::from_str(r#"{"ociVersion":"1.3.0","linux":{"netDevices":{"a":{}}}}"#);
        assert!(from_spec(&spec.unwrap(), false).is_err());
    }
}
