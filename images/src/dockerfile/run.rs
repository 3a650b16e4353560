//! RUN: a command in a container that stands on the layers so far; what it writes is the layer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::prepare::Prepared;
use super::state::Stage;
use super::{BuildOptions, Failed};
use crate::error::FileContext;
use crate::identity::Privilege;
use crate::pack::Look;
use crate::store::Lease;
use crate::{BundleOptions, Digest, Image, Layer, Result, Store, files};

const FORMAT_VERSION: u32 = 1;
/// Mount points that the runtime makes where the image lacks them.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

/// `build-cache/<key>`: what a command made of the same layers, environment and user before.
#[derive(Serialize, Deserialize)]
struct Cached {
    version: u32,
    digest: Digest,
    compressed_size: u64,
    diff_id: Digest,
}

/// A command with what it gets.
pub(super) struct Job<'a> {
    pub stage: &'a Stage,
    pub args: &'a [String],
    /// Beside the image's.
    pub env: &'a [String],
    pub host_network: bool,
    /// Makes its mounts ready in the directory that is its own.
    pub prepare: &'a mut dyn FnMut(&Path) -> Result<Prepared, Failed>,
}

/// Runs a command and gives the layer of what it wrote, or the one it wrote before.
pub(super) fn run(
    store: &Store,
    job: Job<'_>,
    options: &BuildOptions,
    lease: &mut Lease,
) -> Result<(Layer, bool), Failed> {
    let stage = job.stage;
    let work = Work::new(store, lease.reserve()?)?;
    let prepared = (job.prepare)(&work.dir)?;
    let key = key_of(&job, &prepared, options);
    if !options.no_cache
        && let Some(layer) = cached(store, &key, lease)?
    {
        return Ok((layer, true));
    }
    let look = Look {
        // What a plain user's container writes is that user's outside, and root's inside.
        owner: (store.privilege() == Privilege::User).then_some((0, 0)),
        mode: None,
        time: options.time(),
        overlay: true,
    };
    work.execute(&job, &prepared, options)?;
    store.settle(&work.id)?;
    let upper = work.dir.join("overlay/upper");
    let layers = stage.draft.layers();
    prepared.tidy(store, &upper, &layers)?;
    work.tidy(&layers)?;
    let layer = store.pack(lease, options.compression, look, |packer| {
        packer.directory(&upper, Path::new(""))
    })?;
    keep(store, &key, &layer)?;
    Ok((layer, false))
}

/// All that a command's layer depends on.
fn key_of(job: &Job<'_>, prepared: &Prepared, options: &BuildOptions) -> Digest {
    let stage = job.stage;
    let below = stage.draft.layers.last();
    let question = serde_json::json!([
        FORMAT_VERSION,
        below.map(|(layer, _)| layer.chain_id.clone()),
        job.args,
        job.env,
        stage.draft.config.user,
        stage.workdir(),
        job.host_network,
        prepared.key,
        options.source_date_epoch,
        options.compression.media_type(),
    ]);
    Digest::of(question.to_string().as_bytes())
}

/// Notes a command's layer for the next build.
fn keep(store: &Store, key: &Digest, layer: &Layer) -> Result<()> {
    let record = Cached {
        version: FORMAT_VERSION,
        digest: layer.digest.clone(),
        compressed_size: layer.compressed_size,
        diff_id: layer.diff_id.clone(),
    };
    let bytes = serde_json::to_vec(&record).expect("the record is plain");
    files::write_durable(&cache_path(store, key)?, &bytes)
}

fn cache_path(store: &Store, key: &Digest) -> Result<PathBuf> {
    let dir = store.root().join("build-cache");
    fs::create_dir_all(&dir).at("create", &dir)?;
    Ok(dir.join(key.hex()))
}

/// A record is good as long as the store has its blob; collection takes blobs that no image has.
fn cached(store: &Store, key: &Digest, lease: &mut Lease) -> Result<Option<Layer>> {
    let path = cache_path(store, key)?;
    let Ok(bytes) = fs::read(&path) else {
        return Ok(None);
    };
    let Ok(record) = serde_json::from_slice::<Cached>(&bytes) else {
        return Ok(None);
    };
    lease.add([&record.digest])?;
    if record.version != FORMAT_VERSION || !store.has_blob(&record.digest, record.compressed_size) {
        files::remove_all(&path)?;
        return Ok(None);
    }
    Ok(Some(Layer {
        digest: record.digest,
        compressed_size: record.compressed_size,
        chain_id: record.diff_id.clone(),
        diff_id: record.diff_id,
    }))
}

/// A runtime that finds itself root of a user namespace must be told that it may not make cgroups.
fn knows_rootless(runtime: &Path) -> bool {
    let name = runtime.file_name().unwrap_or_default();
    name == "rrun" || name == "runc"
}

/// A bundle that goes when it is dropped.
struct Work<'a> {
    store: &'a Store,
    id: String,
    dir: PathBuf,
}

impl<'a> Work<'a> {
    fn new(store: &'a Store, id: String) -> Result<Self> {
        // Secrets lie here while the command runs.
        let dir = store.build_dir().join(&id);
        files::create_private(&dir)?;
        Ok(Self { store, id, dir })
    }

    fn execute(
        &self,
        job: &Job<'_>,
        prepared: &Prepared,
        options: &BuildOptions,
    ) -> Result<(), Failed> {
        let stage = job.stage;
        let image = Image::of_draft(&stage.draft);
        let user = self.store.user_of(&image, &stage.draft.config.user)?;
        let (rootfs, dir) = (self.dir.join("rootfs"), self.dir.join("overlay"));
        fs::create_dir_all(&rootfs).at("create", &rootfs)?;
        // A lease holds the layers of an image that is being built.
        let found = || Ok(image.clone());
        let overlay = self.store.rootfs_or_mount(found, &self.id, &dir, &rootfs)?;
        let bundle = BundleOptions {
            id: self.id.clone(),
            args: job.args.to_vec(),
            entrypoint: Some(Vec::new()),
            env: [job.env, &prepared.env].concat(),
            host_network: job.host_network,
            ..BundleOptions::default()
        };
        let mut spec = crate::bundle::nested_spec(&image, &user, overlay.as_ref(), &bundle)?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &prepared.mounts {
            let (to, source) = (mount.to.to_string_lossy(), mount.source.to_string_lossy());
            let options = mount.options.clone();
            mounts.push(crate::bundle::mount(&to, mount.kind, &source, options)?);
        }
        spec.set_mounts(Some(mounts));
        let config = self.dir.join("config.json");
        files::write_atomic(&config, &crate::draft::canonical(&spec)?)?;
        let status = self.command(options).status().at("run", &options.runtime)?;
        if status.success() {
            return Ok(());
        }
        let code = status
            .code()
            .map_or_else(|| status.to_string(), |code| format!("status {code}"));
        Err(Failed::Step(format!("the command ended with {code}")))
    }

    /// The runtime, with the bundle.
    fn command(&self, options: &BuildOptions) -> Command {
        let mut command = Command::new(&options.runtime);
        command.arg("--root").arg(self.dir.join("state"));
        if self.store.privilege() == Privilege::Namespace && knows_rootless(&options.runtime) {
            command.args(["--rootless", "true"]);
        }
        command
            .args(["run", "--bundle"])
            .arg(&self.dir)
            .arg(&self.id);
        command.stdin(Stdio::null());
        if options.quiet {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        } else {
            // The image's id is all that goes to standard output.
            command.stdout(std::io::stderr());
        }
        command
    }

    /// Takes away what the runtime made and the command did not.
    fn tidy(&self, layers: &[Layer]) -> Result<()> {
        let upper = self.dir.join("overlay/upper");
        for name in MOUNT_POINTS {
            let path = upper.join(name);
            let mut below = false;
            for layer in layers {
                below |= self.store.layer_fs(&layer.chain_id)?.join(name).exists();
            }
            let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            let own = rustix::process::geteuid().as_raw();
            let plain = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir() && m.uid() == own);
            if !below && empty && plain {
                fs::remove_dir(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let released = self
            .store
            .release(&self.id)
            .and_then(|()| files::remove_all(&self.dir));
        if let Err(error) = released {
            tracing::warn!("{}: left behind: {error}", self.dir.display());
        }
    }
}
