//! A plugin that has registered: who it is, what it wants to hear, and calls to it.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rrun_cri_api::nri;
use rrun_task_api::prost::Message;
use rrun_task_api::{Code, Status};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::events::Event;
use super::peer::{Failure, Peer, Serve};
use crate::config::file;
use crate::notify;

/// Bytes of a SynchronizeRequest, well below the 4 MiB that ttrpc takes.
const SYNCHRONIZE: usize = 1 << 20;

/// A connected plugin.
pub struct Plugin {
    /// `<index>-<name>`; plugins are called in this order.
    pub label: String,
    events: i32,
    peer: Peer,
    limit: Duration,
    /// One request at a time, as plugins know it from the peers.
    turn: tokio::sync::Mutex<()>,
    /// Ended with this, where we started it.
    _child: Option<Child>,
}

/// A program to start as a plugin.
pub struct Installed {
    /// Two digits.
    pub index: String,
    /// The rest of the file's name, after a dash.
    pub name: String,
    /// The program.
    pub path: std::path::PathBuf,
    /// What the plugin is told in Configure.
    pub config: String,
}

impl Plugin {
    /// Waits for a plugin to register, and configures it. `update` answers UpdateContainers.
    pub async fn register(
        stream: UnixStream,
        settings: &file::Nri,
        installed: Option<(&Installed, Child)>,
        update: Arc<Serve>,
    ) -> Result<Self> {
        let (sender, registered) = oneshot::channel();
        let sender = std::sync::Mutex::new(Some(sender));
        let serve: Arc<Serve> = Arc::new(move |method, payload| {
            if method != "RegisterPlugin" {
                return update(method, payload);
            }
            let request = nri::RegisterPluginRequest::decode(&payload[..]);
            let sender = sender.lock().ok().and_then(|mut s| s.take());
            Box::pin(async move {
                let request = request.map_err(|e| Status::invalid(e.to_string()))?;
                let sender = sender.ok_or_else(|| Status::precondition("registered already"))?;
                // Nobody waits any more: the connection is about to end.
                let _ = sender.send(request);
                Ok(vec![])
            })
        });
        let peer = Peer::over(stream, serve);
        let limit = settings.registration_timeout.0;
        let request = tokio::time::timeout(limit, registered).await;
        let request = request.with_context(|| format!("no registration within {limit:?}"))?;
        let request = request.context("the connection ended before the registration")?;
        let (label, config) = match &installed {
            Some((one, _)) => (format!("{}-{}", one.index, one.name), one.config.clone()),
            None => (
                label(&request.plugin_idx, &request.plugin_name)?,
                String::new(),
            ),
        };
        let configure = nri::ConfigureRequest {
            config,
            runtime_name: "rrun-cri".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            registration_timeout: limit.as_millis() as i64,
            request_timeout: settings.request_timeout.0.as_millis() as i64,
            nri_version: "v0.12.0".into(),
        };
        let limit = settings.request_timeout.0;
        let answer = peer.call("Configure", &configure, limit).await;
        let answer: nri::ConfigureResponse = answer.map_err(|f| failed(&label, &f))?;
        if answer.events & !Event::ALL != 0 {
            bail!(
                "NRI plugin {label} subscribes to unknown events {:#x}",
                answer.events
            );
        }
        Ok(Self {
            // Nothing asked for is everything.
            events: if answer.events == 0 {
                Event::ALL
            } else {
                answer.events
            },
            label,
            peer,
            limit,
            turn: tokio::sync::Mutex::default(),
            _child: installed.map(|(_, child)| child),
        })
    }

    /// Whether it wants to hear of an event.
    pub fn wants(&self, event: Event) -> bool {
        self.events & event.bit() != 0 && !self.peer.is_ended()
    }

    /// Waits for its end.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.peer.ended()
    }

    /// Tells it everything there is, in as many messages as are needed.
    pub async fn synchronize(
        &self,
        pods: Vec<nri::PodSandbox>,
        containers: Vec<nri::Container>,
        limit: Duration,
    ) -> Result<Vec<nri::ContainerUpdate>> {
        let _turn = self.turn.lock().await;
        for request in parts(pods, containers) {
            let answer = self.peer.call("Synchronize", &request, limit).await;
            let answer: nri::SynchronizeResponse = answer.map_err(|f| failed(&self.label, &f))?;
            if !request.more {
                return Ok(answer.update);
            }
            if !answer.more {
                bail!(
                    "NRI plugin {} does not take Synchronize in parts",
                    self.label
                );
            }
        }
        Ok(vec![])
    }

    /// Calls it for an event. A plugin that is gone or too slow is disconnected, and the work of
    /// the others goes on; one that refuses makes an error.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        event: Event,
        request: &Q,
        old: Option<&nri::StateChangeEvent>,
    ) -> Result<Option<A>> {
        let _turn = self.turn.lock().await;
        let mut answer = self.peer.call(&event.method(), request, self.limit).await;
        // Before NRI 0.10 these had no methods of their own.
        if let (Err(Failure::Refused(status)), Some(old)) = (&answer, old)
            && status.code == Code::Unimplemented
        {
            let told = self
                .peer
                .call::<_, nri::Empty>("StateChange", old, self.limit)
                .await;
            answer = told.map(|_| A::default());
        }
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Gone(why)) => {
                tracing::error!(plugin = self.label, "the NRI plugin is disconnected: {why}");
                self.peer.end();
                Ok(None)
            }
            Err(refused) => Err(failed(&self.label, &refused)),
        }
    }
}

fn failed(label: &str, failure: &Failure) -> anyhow::Error {
    match failure {
        Failure::Refused(status) => anyhow::anyhow!("NRI plugin {label}: {status}"),
        Failure::Gone(why) => anyhow::anyhow!("NRI plugin {label}: {why}"),
    }
}

/// The identity that an external plugin gives itself.
fn label(index: &str, name: &str) -> Result<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    if index.len() != 2 || !index.bytes().all(|b| b.is_ascii_digit()) {
        bail!("an NRI plugin registers with index {index:?}, not two digits");
    }
    if name.is_empty() || !name.bytes().all(good) {
        bail!("an NRI plugin registers as {name:?}: letters, digits and -_.+ are allowed");
    }
    Ok(format!("{index}-{name}"))
}

/// Splits by size; all but the last say that more will come.
fn parts(
    pods: Vec<nri::PodSandbox>,
    containers: Vec<nri::Container>,
) -> Vec<nri::SynchronizeRequest> {
    let mut all = vec![nri::SynchronizeRequest::default()];
    let mut size = 0;
    let mut fits = |all: &mut Vec<nri::SynchronizeRequest>, more: usize| {
        if size + more > SYNCHRONIZE && size > 0 {
            if let Some(last) = all.last_mut() {
                last.more = true;
            }
            all.push(nri::SynchronizeRequest::default());
            size = 0;
        }
        size += more;
    };
    for pod in pods {
        fits(&mut all, pod.encoded_len());
        all.last_mut().expect("never empty").pods.push(pod);
    }
    for container in containers {
        fits(&mut all, container.encoded_len());
        all.last_mut()
            .expect("never empty")
            .containers
            .push(container);
    }
    all
}

impl Installed {
    /// Programs in a directory named `<two digits>-<name>`, in that order.
    pub fn find(settings: &file::Nri) -> Result<Vec<Self>> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = &settings.plugin_dir;
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.with_context(|| format!("list {}", dir.display()))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("list {}", dir.display()))?
                .path();
            let program = std::fs::metadata(&path)
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
            let file = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !program {
                continue;
            }
            let (index, name) = file.split_once('-').unwrap_or((&file, ""));
            label(index, name).with_context(|| format!("plugin {}", path.display()))?;
            let config = configuration(settings, index, name)?;
            all.push(Self {
                index: index.to_owned(),
                name: name.to_owned(),
                config,
                path,
            });
        }
        all.sort_by(|a, b| (&a.index, &a.name).cmp(&(&b.index, &b.name)));
        Ok(all)
    }

    /// Starts it with its end of a connection as descriptor 3.
    pub fn start(&self) -> Result<(UnixStream, Child)> {
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().context("make a socket pair")?;
        ours.set_nonblocking(true)
            .context("set a socket non-blocking")?;
        // The plugin's end comes as standard input, and the shell gives it the number it is
        // looked for under: a descriptor other than the standard ones survives no exec.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec 3<&0 0</dev/null && exec \"$0\""])
            .arg(&self.path)
            .env("NRI_PLUGIN_SOCKET", "3")
            .env("NRI_PLUGIN_NAME", &self.name)
            .env("NRI_PLUGIN_IDX", &self.index)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .kill_on_drop(true);
        for variable in notify::VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn();
        let child = child.with_context(|| format!("start {}", self.path.display()))?;
        Ok((UnixStream::from_std(ours).context("watch a socket")?, child))
    }
}

fn configuration(settings: &file::Nri, index: &str, name: &str) -> Result<String> {
    for file in [format!("{index}-{name}.conf"), format!("{name}.conf")] {
        let path = settings.plugin_config_dir.join(file);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other.with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_names_itself_well() {
        assert_eq!(label("05", "a.b-c").unwrap(), "05-a.b-c");
        for (index, name) in [
            ("5", "a"),
            ("5x", "a"),
            ("123", "a"),
            ("05", ""),
            ("05", "a/b"),
        ] {
            assert!(label(index, name).is_err(), "{index} {name}");
        }
    }

    #[test]
    fn a_large_state_goes_in_parts_and_nothing_is_lost() {
        let container = |n: usize| nri::Container {
            id: format!("{n}"),
            name: "x".repeat(SYNCHRONIZE / 3),
            ..Default::default()
        };
        let parts = parts(
            vec![nri::PodSandbox::default()],
            (0..7).map(container).collect(),
        );
        assert!(parts.len() > 2);
        assert!(parts.iter().all(|p| p.encoded_len() < 2 * SYNCHRONIZE));
        let more: Vec<_> = parts.iter().map(|p| p.more).collect();
        assert!(more[..more.len() - 1].iter().all(|m| *m) && !more[more.len() - 1]);
        let ids: Vec<_> = parts
            .iter()
            .flat_map(|p| p.containers.iter().map(|c| c.id.clone()))
            .collect();
        assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
        assert!(!super::parts(vec![], vec![])[0].more);
    }

    #[test]
    fn installed_plugins_come_in_order_with_their_configuration() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        for name in ["10-b", "05-a"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(dir.path().join("readme"), "").unwrap();
        std::fs::write(dir.path().join("b.conf"), "x: 1").unwrap();
        let settings = file::Nri {
            plugin_dir: dir.path().into(),
            plugin_config_dir: dir.path().into(),
            ..file::Nri::default()
        };
        let found = Installed::find(&settings).unwrap();
        let names: Vec<_> = found.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(found[1].config, "x: 1");
    }
}
