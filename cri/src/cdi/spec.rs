//! The vendors' files, JSON or YAML, and which of them defines a device.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::name;

/// Larger files are nobody's description of devices.
const LARGEST: u64 = 4 << 20;

/// One file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Where it is.
    #[serde(skip)]
    pub path: PathBuf,
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    /// For whoever gets any of the devices.
    #[serde(default)]
    pub container_edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What changes in a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<Node>,
    /// Network interfaces of the machine that move into the container.
    pub net_devices: Vec<NetDevice>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// OCI hooks.
    pub hooks: Vec<Hook>,
    /// `linux.intelRdt`, as the runtime specification has it.
    pub intel_rdt: Option<Map<String, Value>>,
    /// Groups of the first process.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device node; what is not said is the machine's node's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Path in the container.
    pub path: String,
    /// Path on the machine, where it differs.
    pub host_path: String,
    /// `b`, `c`, `u` or `p`.
    pub r#type: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// What the cgroup allows: a subset of `rwm`.
    pub permissions: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A network interface.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetDevice {
    /// Name on the machine.
    pub host_interface_name: String,
    /// Name in the container.
    pub name: String,
}

/// A mount.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Path on the machine.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Kind of file system; a bind mount where it is not said.
    pub r#type: String,
    /// Options.
    pub options: Vec<String>,
}

/// An OCI hook.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// `createRuntime`, …
    pub hook_name: String,
    /// Program.
    pub path: String,
    /// Arguments, the first of which is the program's name.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

/// All files.
#[derive(Debug, Default)]
pub struct Registry {
    /// By qualified name: directory number, file, edits; several of one directory contradict.
    devices: BTreeMap<String, Vec<(usize, Arc<File>, Edits)>>,
    /// Files that could not be read, with the reason.
    broken: Vec<String>,
}

impl Registry {
    /// Reads every file of the directories, the later of which go before the earlier. A file that
    /// cannot be read matters to nobody but those who ask for a device that is then missing.
    pub fn read(dirs: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for (priority, dir) in dirs.iter().enumerate() {
            for path in files(dir) {
                match File::read(&path) {
                    Ok(file) => all.add(priority, Arc::new(file)),
                    Err(error) => all.broken.push(format!("{error:#}")),
                }
            }
        }
        all
    }

    fn add(&mut self, priority: usize, file: Arc<File>) {
        for device in &file.devices {
            let name = format!("{}={}", file.kind, device.name);
            let rivals = self.devices.entry(name).or_default();
            rivals.retain(|(p, _, _)| *p == priority);
            rivals.push((priority, file.clone(), device.container_edits.clone()));
        }
    }

    /// The file that a device is in, and its own edits.
    pub fn find(&self, device: &str) -> Result<(Arc<File>, Edits)> {
        match self.devices.get(device).map(Vec::as_slice) {
            Some([(_, file, edits)]) => Ok((file.clone(), edits.clone())),
            Some([(_, one, _), (_, other, _), ..]) => bail!(
                "CDI device {device} is in two files: {} and {}",
                one.path.display(),
                other.path.display()
            ),
            _ if self.broken.is_empty() => bail!("no CDI file has the device {device}"),
            _ => bail!(
                "no CDI file has the device {device}; unreadable: {}",
                self.broken.join("; ")
            ),
        }
    }
}

/// A directory's files by name; one that is not there has none.
fn files(dir: &Path) -> Vec<PathBuf> {
    let known = |path: &Path| {
        let ending = path.extension().and_then(|e| e.to_str());
        matches!(ending, Some("json" | "yaml" | "yml"))
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return vec![],
        Err(error) => {
            tracing::warn!(dir = %dir.display(), "list CDI files: {error}");
            return vec![];
        }
    };
    let mut all: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    all.retain(|path| known(path));
    all.sort();
    all
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let context = || format!("CDI file {}", path.display());
        let meta = fs::metadata(path).with_context(context)?;
        if !meta.is_file() || meta.len() > LARGEST {
            bail!("{}: no file of at most {LARGEST} bytes", context());
        }
        let text = fs::read_to_string(path).with_context(context)?;
        let mut file = Self::parse(&text).with_context(context)?;
        path.clone_into(&mut file.path);
        Ok(file)
    }

    /// JSON is YAML too.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut options = serde_saphyr::Options::default();
        // A file mode is written as 0660.
        options.legacy_octal_numbers = true;
        let file: Self = serde_saphyr::from_str_with_options(text, options)
            .map_err(|e| anyhow::anyhow!("{}", e.to_string().lines().next().unwrap_or_default()))?;
        let version = file.cdi_version.trim_start_matches('v');
        if !["0.", "1."].iter().any(|known| version.starts_with(known)) {
            bail!(
                "cdiVersion {:?}: this program knows 0.3 to 1",
                file.cdi_version
            );
        }
        name::check_kind(&file.kind).map_err(anyhow::Error::msg)?;
        for device in &file.devices {
            if !name::is_device(&device.name) {
                bail!("device {:?}: not a name", device.name);
            }
        }
        Ok(file)
    }
}
