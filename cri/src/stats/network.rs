//! Counters of the interfaces in a pod's network namespace.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use rrun_cri_api::v1;

use crate::daemon::{Daemon, blocking};
use crate::id;
use crate::sandbox;
use crate::store::{SandboxPhase, SandboxRecord};

/// `/proc/net/dev` of a pod; none for one in the machine's network, or one that is stopped.
pub async fn counters(daemon: &Arc<Daemon>, record: &SandboxRecord) -> Result<Option<String>> {
    if record.host_network() || record.phase() != SandboxPhase::Ready {
        return Ok(None);
    }
    let pin = sandbox::pin(&daemon.config.sandbox_dir(&record.id), "net");
    let text = blocking(move || {
        let file = fs::File::open(&pin).with_context(|| format!("open {}", pin.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter {}", pin.display()))?;
                let path = "/proc/thread-self/net/dev";
                fs::read_to_string(path).with_context(|| format!("read {path}"))
            });
            thread
                .join()
                .unwrap_or_else(|_| bail!("the thread that reads counters panicked"))
        })
    });
    text.await.map(Some)
}

/// Each interface with its columns, without the loopback.
pub fn lines(text: &str) -> Vec<(String, Vec<u64>)> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters = counters
            .split_ascii_whitespace()
            .map_while(|c| c.parse().ok())
            .collect();
        Some((name.trim().to_owned(), counters))
    };
    let all = text.lines().filter_map(line);
    all.filter(|(name, _)| name != "lo").collect()
}

/// The counters as stats have them.
pub fn usage(text: &str) -> v1::NetworkUsage {
    let one = |(name, counters): (String, Vec<u64>)| {
        let at = |index: usize| counters.get(index).map(|v| v1::UInt64Value { value: *v });
        v1::NetworkInterfaceUsage {
            name,
            rx_bytes: at(0),
            rx_errors: at(2),
            tx_bytes: at(8),
            tx_errors: at(10),
        }
    };
    let mut interfaces: Vec<_> = lines(text).into_iter().map(one).collect();
    let default = interfaces.iter().position(|i| i.name == "eth0");
    v1::NetworkUsage {
        timestamp: id::now(),
        default_interface: default.map(|index| interfaces.remove(index)),
        interfaces,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_proc_net_dev() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:       1       0    0    0    0     0          0         0        1       0    0    0
  eth0:     100       2    3    0    0     0          0         0      200       4    5    0
";
        assert_eq!(lines(text).len(), 1);
        let eth0 = usage(text).default_interface.unwrap();
        assert_eq!(eth0.rx_bytes.unwrap().value, 100);
        assert_eq!(eth0.tx_errors.unwrap().value, 5);
    }
}
