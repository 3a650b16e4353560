//! The files of a sandbox that its containers see: resolv.conf, hosts, hostname, `/dev/shm`.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use rrun_cri_api::v1::DnsConfig;

use super::namespaces::unmount;
use super::plan::{Plan, SHM_SIZE};
use crate::network::PodIps;

/// Makes the directories of a sandbox.
pub fn make_dirs(plan: &Plan) -> Result<()> {
    for dir in [plan.dir.join("ns"), plan.dir.join("shm")] {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    }
    // Containers run as any user; what they see are the files, not this directory.
    fs::set_permissions(&plan.dir, fs::Permissions::from_mode(0o711))
        .with_context(|| format!("chmod {}", plan.dir.display()))
}

/// Mounts the pod's own `/dev/shm`.
pub fn mount_shm(plan: &Plan) -> Result<()> {
    if !plan.own_shm {
        return Ok(());
    }
    let target = plan.dir.join("shm");
    let mut options = format!("mode=1777,size={SHM_SIZE}");
    if let Some(maps) = &plan.users {
        let _ = write!(options, ",uid={},gid={}", maps.uids.host, maps.gids.host);
    }
    mount(
        Some("shm"),
        &target,
        Some("tmpfs"),
        MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .with_context(|| format!("mount tmpfs on {}", target.display()))
}

/// Undoes [`mount_shm`].
pub fn unmount_shm(dir: &Path) -> Result<()> {
    unmount(&dir.join("shm"))
}

/// Writes the files.
pub fn write(plan: &Plan, ips: &PodIps) -> Result<()> {
    let machine = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| format!("read {path}")),
    };
    let resolv = match plan.dns.as_ref().map(resolv_conf) {
        Some(text) if !text.is_empty() => text,
        _ => machine("/etc/resolv.conf")?,
    };
    // A pod without a name of its own has the machine's.
    let hostname = if plan.hostname.is_empty() {
        let name = nix::unistd::gethostname().context("read the host name")?;
        name.to_string_lossy().into_owned()
    } else {
        plan.hostname.clone()
    };
    let hosts = if plan.host_network {
        machine("/etc/hosts")?
    } else {
        hosts(&hostname, ips)
    };
    put(plan, "resolv.conf", &resolv)?;
    put(plan, "hosts", &hosts)?;
    put(plan, "hostname", &format!("{hostname}\n"))
}

fn put(plan: &Plan, name: &str, text: &str) -> Result<()> {
    let path = plan.dir.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        .with_context(|| format!("chmod {}", path.display()))?;
    match &plan.users {
        Some(maps) => maps.shift_owner(&path, 0, 0),
        None => Ok(()),
    }
}

/// resolv.conf(5).
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

/// hosts(5) of a pod with addresses of its own.
fn hosts(hostname: &str, ips: &PodIps) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for ip in ips.0.iter().filter(|_| !hostname.is_empty()) {
        let _ = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

/// Removes the directory of a sandbox. Nothing may be mounted below it any more: a removal
/// through a mount would delete what is not ours, so a busy one is an error.
pub fn remove_dir(dir: &Path) -> Result<()> {
    for path in [dir.join("shm"), dir.join("ns")] {
        match fs::remove_dir(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_a_line_per_server() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.1".into(), "fd00::1".into()],
            searches: vec!["a.local".into(), "local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a.local local\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn hosts_name_every_address_of_the_pod() {
        let ips = PodIps(vec![
            "10.88.0.2".parse().unwrap(),
            "fd00::2".parse().unwrap(),
        ]);
        let text = hosts("pod", &ips);
        assert!(text.ends_with("10.88.0.2\tpod\nfd00::2\tpod\n"), "{text}");
        assert!(!hosts("", &ips).contains("10.88"));
    }
}
