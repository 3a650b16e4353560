//! What a SIGHUP may change: log filter, registries, runtime handlers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rrun_images::{Credentials, RegistryOptions};

use super::file::{self, File, RootfsBy};
use super::{Named, Origin, absolute, program};

/// A checked runtime handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its name.
    pub name: String,
    /// The OCI runtime.
    pub path: PathBuf,
    /// The runtime's `--root`.
    pub root: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// The shim of another project that runs the containers, behind ours.
    pub behind: Option<Behind>,
    /// The shim mounts the overlay, since the runtime cannot.
    pub shim_mounts: bool,
}

/// Another project's shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Its program.
    pub program: PathBuf,
    /// The file that it is configured by.
    pub config: Option<PathBuf>,
}

/// The part of the configuration that can change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Live {
    /// Filter of the log.
    pub log: String,
    file: File,
    runtimes: Named<Runtime>,
}

impl Live {
    pub(super) fn check(file: &File, origin: &Origin) -> Result<Self> {
        let mut runtimes = Named::new();
        for (name, runtime) in &file.runtimes {
            runtimes.insert(name.clone(), handler(origin, file, name, runtime)?);
        }
        if !runtimes.contains_key(&file.default_runtime) {
            bail!(
                "{} {:?}: no such runtime handler; there are: {}",
                origin.of("default_runtime"),
                file.default_runtime,
                join(&runtimes)
            );
        }
        for (host, registry) in &file.registries {
            let key = format!("registries.{host}");
            if registry.username.is_empty() {
                bail!("{}: username is empty", origin.of(&key));
            }
            if !registry.password_file.as_os_str().is_empty() {
                absolute(
                    origin,
                    &format!("{key}.password_file"),
                    &registry.password_file,
                )?;
            }
        }
        tracing_subscriber::EnvFilter::try_new(&file.log)
            .with_context(|| format!("{} {:?}: not a filter", origin.of("log"), file.log))?;
        Ok(Self {
            log: file.log.clone(),
            runtimes,
            file: file.clone(),
        })
    }

    /// The file that this was made from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A runtime handler; the default one for the empty name.
    pub fn runtime(&self, name: &str) -> Result<&Runtime> {
        let name = if name.is_empty() {
            &self.file.default_runtime
        } else {
            name
        };
        let known = self.runtimes.get(name);
        known.with_context(|| {
            format!(
                "runtime_handler {name:?}: known are {}",
                join(&self.runtimes)
            )
        })
    }

    /// Every runtime handler.
    pub fn runtimes(&self) -> impl Iterator<Item = &Runtime> {
        self.runtimes.values()
    }

    /// Which images are taken; `None` is the machine's own policy.
    pub fn policy(&self) -> Option<PathBuf> {
        given(&self.file.images.policy)
    }

    /// How to speak to a registry (`host` or `host:port`), for a request without credentials of
    /// its own.
    pub fn registry(&self, host: &str) -> Result<RegistryOptions> {
        let images = &self.file.images;
        let credentials = match self.file.registries.get(host) {
            Some(registry) => basic(host, registry)?,
            None => Credentials::FromFiles,
        };
        Ok(RegistryOptions {
            credentials,
            plain_http: images.plain_http.clone(),
            ca_files: images.ca_files.clone(),
            hosts_dir: Some(images.hosts_dir.clone()),
            registries_conf: given(&images.registries_conf),
            attempts: 0,
        })
    }
}

fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn basic(host: &str, registry: &file::Registry) -> Result<Credentials> {
    let password = if registry.password_file.as_os_str().is_empty() {
        registry.password.clone()
    } else {
        let path = &registry.password_file;
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("password of {host}: read {}", path.display()))?;
        text.trim_end_matches(['\n', '\r']).to_owned()
    };
    Ok(Credentials::Basic {
        username: registry.username.clone(),
        password,
    })
}

fn handler(origin: &Origin, file: &File, name: &str, given: &file::Runtime) -> Result<Runtime> {
    let key = |field: &str| format!("runtimes.{name}.{field}");
    let behind = behind(origin, &key, given)?;
    let path = match behind {
        // It has a runtime of its own.
        Some(_) if given.path.as_os_str().is_empty() => PathBuf::new(),
        _ => program(origin, &key("path"), &given.path, name)?,
    };
    // Handlers share a shim unless told otherwise.
    let own = Some(&given.shim).filter(|shim| !shim.as_os_str().is_empty());
    let usual = file.runtimes.get("rrun").map(|rrun| &rrun.shim);
    let shim = own.or(usual).cloned().unwrap_or_default();
    let shim = program(origin, &key("shim"), &shim, "containerd-shim-rrun-v2")?;
    let root = if given.root.as_os_str().is_empty() {
        file.state.join("runtimes").join(name)
    } else {
        given.root.clone()
    };
    absolute(origin, &key("root"), &root)?;
    let shim_mounts = match given.rootfs {
        RootfsBy::Runtime => false,
        RootfsBy::Shim => true,
        RootfsBy::Auto => behind.is_some() || !mounts_itself(&path),
    };
    Ok(Runtime {
        name: name.to_owned(),
        path,
        root,
        shim,
        behind,
        shim_mounts,
    })
}

fn behind(
    origin: &Origin,
    key: &impl Fn(&str) -> String,
    given: &file::Runtime,
) -> Result<Option<Behind>> {
    let Some(shim) = self::given(&given.task_shim) else {
        if !given.task_shim_config.as_os_str().is_empty() {
            bail!("{}: without task_shim", origin.of(&key("task_shim_config")));
        }
        return Ok(None);
    };
    let program = program(origin, &key("task_shim"), &shim, "")?;
    let config = self::given(&given.task_shim_config);
    if let Some(config) = &config {
        absolute(origin, &key("task_shim_config"), config)?;
    }
    Ok(Some(Behind { program, config }))
}

/// Runtimes that take a mount on `/` for the root file system. crun does, but of overlays 1.8 makes none
/// there (`EINVAL`).
fn mounts_itself(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("rrun")
}

fn join(runtimes: &Named<Runtime>) -> String {
    runtimes.keys().cloned().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn live_of(text: &str) -> Result<Live> {
        // A program that is there on every machine stands for shim and runtime.
        let base = "[runtimes.rrun]\npath = \"/bin/sh\"\nshim = \"/bin/sh\"\n";
        let text = format!("{text}\n{base}");
        let path = PathBuf::from("/c.toml");
        let file = File::parse(&path, &text)?;
        Live::check(
            &file,
            &Origin {
                path,
                text,
                given: BTreeMap::default(),
            },
        )
    }

    #[test]
    fn handlers_are_found_by_name_and_the_default_by_none() {
        let text = "[runtimes.crun]\npath = \"/bin/cat\"\nshim = \"/bin/sh\"\n";
        let live = live_of(text).unwrap();
        assert_eq!(live.runtime("").unwrap().name, "rrun");
        let crun = live.runtime("crun").unwrap();
        assert_eq!(crun.root, Path::new("/run/rrun-cri/runtimes/crun"));
        assert!(crun.shim_mounts, "cat is not rrun");
        let error = live.runtime("kata").unwrap_err().to_string();
        assert_eq!(error, "runtime_handler \"kata\": known are crun, rrun");
    }

    #[test]
    fn a_shim_of_another_project_needs_no_runtime_of_ours() {
        let text = "[runtimes.other]\ntask_shim = \"/bin/sh\"\n";
        let live = live_of(text).unwrap();
        let other = live.runtime("other").unwrap();
        assert!(other.behind.is_some() && other.shim_mounts);
        assert_eq!(other.path, Path::new(""));
        let error = live_of("[runtimes.other]\ntask_shim = \"/no/shim\"\n");
        let error = format!("{:#}", error.unwrap_err());
        assert!(
            error.starts_with("/c.toml:2: runtimes.other.task_shim /no/shim"),
            "{error}"
        );
    }

    #[test]
    fn a_default_that_is_no_handler_and_a_program_that_is_not_there_are_refused() {
        let error = live_of("default_runtime = \"kata\"")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("/c.toml:1: default_runtime \"kata\""),
            "{error}"
        );
        let missing = "[runtimes.kata]\npath = \"/no/kata\"\nshim = \"/bin/sh\"";
        let error = live_of(missing).unwrap_err().to_string();
        assert!(
            error.starts_with("/c.toml:2: runtimes.kata.path"),
            "{error}"
        );
        let error = live_of("log = \"a=b=c\"").unwrap_err().to_string();
        assert!(error.starts_with("/c.toml:1: log"), "{error}");
    }

    #[test]
    fn credentials_of_a_registry_come_from_its_section() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "pa:ss\n").unwrap();
        let text = format!(
            "[registries.\"r.example:5000\"]\nusername = \"u\"\npassword_file = {secret:?}\n"
        );
        let live = live_of(&text).unwrap();
        let wanted = Credentials::Basic {
            username: "u".into(),
            password: "pa:ss".into(),
        };
        assert!(live.registry("r.example:5000").unwrap().credentials == wanted);
        assert!(live.registry("other").unwrap().credentials == Credentials::FromFiles);
        std::fs::remove_file(&secret).unwrap();
        assert!(live.registry("r.example:5000").is_err());
    }
}
