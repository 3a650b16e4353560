//! Images from directories: one layer each, the same bytes for the same input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::image as oci;
use tar::{Builder, EntryType, Header};

use crate::error::FileContext;
use crate::install::install;
use crate::manifest::{self, OCI_CONFIG, OCI_MANIFEST};
use crate::store::{Lease, Record};
use crate::{
    Compression, Digest, Error, Hasher, ImageConfig, ImageId, Layer, Limits, Platform, Reference,
    Result, Store, files,
};

/// What [`Store::build_layers`] makes an image from.
#[derive(Clone, Debug)]
pub struct LayerBuild {
    /// One layer from each, bottom first. Owners become root's.
    pub directories: Vec<PathBuf>,
    /// What to run and how.
    pub config: ImageConfig,
    /// What it runs on.
    pub platform: Platform,
    /// How the layers are compressed.
    pub compression: Compression,
    /// Its names.
    pub tags: Vec<Reference>,
    /// Seconds since 1970 that every file and the image carry, so that the same input gives the
    /// same digest: SOURCE_DATE_EPOCH, or 0.
    pub time: u64,
}

impl Store {
    /// Makes an image from directories. Blocks.
    pub fn build_layers(&self, build: &LayerBuild) -> Result<ImageId> {
        let mut lease = Lease::new(self)?;
        let mut layers: Vec<Layer> = Vec::new();
        for directory in &build.directories {
            let mut layer = self.pack(directory, build)?;
            let below = layers.last().map(|l| &l.chain_id);
            layer.chain_id = manifest::chain_id(below, &layer.diff_id);
            lease.add([&layer.digest, &layer.chain_id])?;
            layers.push(layer);
            self.install_from_blob(&layers, &Limits::default())?;
        }
        let config = config_of(build, &layers)?;
        let manifest = manifest_of(&config, &layers, build.compression)?;
        lease.add([&Digest::of(&config), &Digest::of(&manifest)])?;
        let id = self.put_document(&config)?;
        let record = Record {
            manifest: self.put_document(&manifest)?,
            media_type: OCI_MANIFEST.to_owned(),
            size: manifest.len() as u64,
            id: id.clone(),
            tags: build.tags.iter().filter_map(Reference::tagged).collect(),
            repo_digests: BTreeSet::new(),
            pinned: false,
        };
        self.change(|index| {
            index.add(record);
            Ok(())
        })?;
        Ok(id)
    }

    /// Unpacks the last of `layers`, whose blob is in the store, where that is still to be done.
    pub(crate) fn install_from_blob(&self, layers: &[Layer], limits: &Limits) -> Result<()> {
        let missing = |layer: &Layer| Error::Document {
            what: format!("layer {}", layer.digest),
            why: "its blob is not in the store".to_owned(),
        };
        let layer = layers.last().expect("the caller gives the layer itself");
        if !self.has_blob(&layer.digest, layer.compressed_size) {
            return Err(missing(layer));
        }
        let mut nothing = std::iter::empty();
        install(
            self,
            layers,
            limits,
            true,
            &mut |_| {},
            &mut nothing,
            &|| true,
        )
        .map(drop)
    }

    /// Writes a directory as a layer blob.
    fn pack(&self, directory: &Path, build: &LayerBuild) -> Result<Layer> {
        let temp = self.ingest_dir().join(files::unique_name());
        let file = File::create_new(&temp).at("create", &temp)?;
        let packed = pack_into(file, directory, build);
        let (digest, size, diff_id) = match packed.at("pack", directory) {
            Ok(packed) => packed,
            Err(error) => {
                files::remove_all(&temp)?;
                return Err(error);
            }
        };
        let blob = self.blob_path(&digest);
        fs::rename(&temp, &blob).at("rename to", &blob)?;
        files::sync_dir(&self.blob_dir())?;
        Ok(Layer {
            digest,
            compressed_size: size,
            chain_id: diff_id.clone(),
            diff_id,
        })
    }
}

/// Hashes what passes on its way.
struct Tee<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn pack_into(
    file: File,
    directory: &Path,
    build: &LayerBuild,
) -> io::Result<(Digest, u64, Digest)> {
    let file = BufWriter::with_capacity(256 << 10, file);
    let compressed = Tee {
        inner: file,
        hasher: Hasher::default(),
    };
    let encoder = Encoder::new(compressed, build.compression)?;
    let mut builder = Builder::new(Tee {
        inner: encoder,
        hasher: Hasher::default(),
    });
    let links = HashMap::new();
    Packer {
        builder: &mut builder,
        time: build.time,
        links,
    }
    .directory(directory, Path::new(""))?;
    let tee = builder.into_inner()?;
    let (diff_id, _) = tee.hasher.finish();
    let compressed = tee.inner.finish()?;
    let (digest, size) = compressed.hasher.finish();
    compressed
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok((digest, size, diff_id))
}

/// The compressions, with nothing in them that differs from run to run.
enum Encoder<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    fn new(inner: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(inner),
            Compression::Gzip => {
                let level = flate2::Compression::new(6);
                Self::Gzip(flate2::GzBuilder::new().mtime(0).write(inner, level))
            }
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(inner, 3)?),
        })
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::None(inner) => Ok(inner),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(inner) => inner.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(inner) => inner.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

struct Packer<'a, W: Write> {
    builder: &'a mut Builder<W>,
    time: u64,
    /// First path of every inode with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(from)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let (path, inner) = (from.join(&name), to.join(&name));
            let meta = fs::symlink_metadata(&path)?;
            self.entry(&path, &inner, &meta).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
            if meta.is_dir() {
                self.directory(&path, &inner)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, inner: &Path, meta: &fs::Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(0);
        self.attributes(path)?;
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            let name = [inner.as_os_str().as_bytes(), b"/"].concat();
            let name = PathBuf::from(std::ffi::OsString::from_vec(name));
            return self.builder.append_data(&mut header, name, io::empty());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self
                .builder
                .append_link(&mut header, inner, fs::read_link(path)?);
        }
        if meta.nlink() > 1 {
            let known = self
                .links
                .entry((meta.dev(), meta.ino()))
                .or_insert_with(|| inner.to_owned());
            if known != inner {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, inner, known.clone());
            }
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(meta.len());
            return self
                .builder
                .append_data(&mut header, inner, File::open(path)?);
        }
        self.node(header, inner, meta)
    }

    fn node(&mut self, mut header: Header, inner: &Path, meta: &fs::Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        header.set_entry_type(if kind.is_fifo() {
            EntryType::Fifo
        } else if kind.is_char_device() {
            EntryType::Char
        } else {
            EntryType::Block
        });
        header.set_device_major(rustix::fs::major(meta.rdev()))?;
        header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
        self.builder.append_data(&mut header, inner, io::empty())
    }

    /// Extended attributes go before the entry, in a PAX header.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let mut names = vec![0; 64 << 10];
        let length = match rustix::fs::llistxattr(path, &mut names) {
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        };
        let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for name in names[..length].split(|&b| b == 0) {
            let Ok(text) = std::str::from_utf8(name) else {
                continue;
            };
            if text == "security.capability"
                || (text.starts_with("user.") && !text.starts_with("user.overlay."))
            {
                let mut value = vec![0; 64 << 10];
                let length = rustix::fs::lgetxattr(path, name, &mut value)?;
                value.truncate(length);
                found.insert(format!("SCHILY.xattr.{text}"), value);
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.builder
            .append_pax_extensions(found.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
    }
}

use std::os::unix::ffi::OsStringExt as _;

fn built(error: oci_spec::OciSpecError) -> Error {
    Error::document("the new image", error)
}

fn config_of(build: &LayerBuild, layers: &[Layer]) -> Result<Vec<u8>> {
    let created = rfc3339(build.time);
    let history = build.directories.iter().map(|directory| {
        let name = directory
            .file_name()
            .map_or("/".into(), |name| name.to_string_lossy());
        oci::HistoryBuilder::default()
            .created(&created)
            .created_by(format!("rrun-image build-layers {name}"))
            .build()
    });
    let history = history.collect::<Result<Vec<_>, _>>().map_err(built)?;
    let diff_ids = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect::<Vec<_>>();
    let rootfs = oci::RootFsBuilder::default()
        .typ("layers")
        .diff_ids(diff_ids)
        .build()
        .map_err(built)?;
    let mut config = oci::ImageConfigurationBuilder::default()
        .created(&created)
        .os(build.platform.os.as_str())
        .architecture(build.platform.architecture.as_str())
        .config(run_config(&build.config))
        .rootfs(rootfs)
        .history(history);
    if !build.platform.variant.is_empty() {
        config = config.variant(&build.platform.variant);
    }
    canonical(&config.build().map_err(built)?)
}

fn run_config(config: &ImageConfig) -> oci::Config {
    let mut run = oci::Config::default();
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    run.set_user(some(&config.user));
    run.set_env(list(&config.env));
    run.set_entrypoint(list(&config.entrypoint));
    run.set_cmd(list(&config.cmd));
    run.set_working_dir(some(&config.working_dir));
    run.set_stop_signal(some(&config.stop_signal));
    run.set_volumes(list(&config.volumes));
    run.set_exposed_ports(list(&config.exposed_ports));
    let labels: HashMap<_, _> = config.labels.clone().into_iter().collect();
    run.set_labels((!labels.is_empty()).then_some(labels));
    run
}

fn manifest_of(config: &[u8], layers: &[Layer], compression: Compression) -> Result<Vec<u8>> {
    let descriptor = |kind: &str, digest: &Digest, size: u64| {
        let digest = digest.as_str().parse::<oci::Digest>().map_err(built)?;
        Ok(oci::Descriptor::new(
            oci::MediaType::from(kind),
            size,
            digest,
        ))
    };
    let kind = match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let layer = |l: &Layer| descriptor(kind, &l.digest, l.compressed_size);
    let manifest = oci::ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(OCI_MANIFEST)
        .config(descriptor(
            OCI_CONFIG,
            &Digest::of(config),
            config.len() as u64,
        )?)
        .layers(layers.iter().map(layer).collect::<Result<Vec<_>>>()?)
        .build()
        .map_err(built)?;
    canonical(&manifest)
}

/// JSON with sorted keys: maps of the types behind have no order of their own.
pub(crate) fn canonical(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    fn sorted(value: serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(map) => {
                let map: BTreeMap<String, serde_json::Value> = map
                    .into_iter()
                    .map(|(key, value)| (key, sorted(value)))
                    .collect();
                serde_json::Value::Object(map.into_iter().collect())
            }
            serde_json::Value::Array(list) => list.into_iter().map(sorted).collect(),
            other => other,
        }
    }
    let value =
        serde_json::to_value(value).map_err(|error| Error::document("the new image", error))?;
    Ok(serde_json::to_vec(&sorted(value)).expect("a JSON value has only strings as keys"))
}

/// Seconds since 1970 as `YYYY-MM-DDThh:mm:ssZ`.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Days to a date in the proleptic Gregorian calendar, with years that start in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_704_067_199), "2023-12-31T23:59:59Z");
    }
}
