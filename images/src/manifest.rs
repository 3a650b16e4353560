//! Manifests, indexes and configurations: what image-spec and Docker's schema 2 say, checked.

use std::collections::BTreeMap;

use oci_spec::image as oci;

use crate::chunked::Place;
use crate::{Digest, Error, History, ImageConfig, Layer, Platform, Result};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// More layers than any builder makes; overlayfs takes 500.
const LAYER_LIMIT: usize = 500;
const INDEX_LIMIT: usize = 1000;

/// A descriptor, reduced to what we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    pub platform: Option<Platform>,
    pub urls: Vec<String>,
    /// Where a layer's table of contents is, if it has one.
    pub table: Option<Box<Place>>,
}

/// How a layer's archive is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// What every tool reads.
    #[default]
    Gzip,
    /// Smaller and faster; Docker reads it since 23, containerd since 1.5.
    Zstd,
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err("write none, gzip or zstd".to_owned()),
        }
    }
}

impl Compression {
    /// The media type of such a layer.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// From the first bytes: builders and registries have been seen to lie in the media type.
    pub(crate) fn sniff(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A skippable frame may come first (zstd:chunked).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

impl Descriptor {
    fn of(what: &str, descriptor: &oci::Descriptor) -> Result<Self> {
        let digest = descriptor.digest().as_ref().parse::<Digest>();
        Ok(Self {
            media_type: descriptor.media_type().to_string(),
            digest: digest.map_err(|error| Error::document(what, error))?,
            size: descriptor.size(),
            platform: descriptor.platform().as_ref().map(|p| Platform {
                os: p.os().to_string(),
                architecture: p.architecture().to_string(),
                variant: p.variant().clone().unwrap_or_default(),
            }),
            urls: descriptor.urls().clone().unwrap_or_default(),
            table: descriptor.annotations().as_ref().and_then(|notes| {
                let notes = notes.iter().map(|(k, v)| (k.clone(), v.clone()));
                Place::of(&notes.collect(), descriptor.size()).map(Box::new)
            }),
        })
    }

    /// Refuses a layer that is no archive of ours to unpack.
    pub fn check_layer(&self) -> Result<()> {
        let kind = self.media_type.as_str();
        if kind.ends_with("+encrypted") {
            return Err(Error::unsupported(
                format!("layer {} is encrypted ({kind}), which", self.digest),
                "decrypt the image with the tool that made it",
            ));
        }
        let known = kind.starts_with("application/vnd.oci.image.layer.")
            || kind.starts_with("application/vnd.docker.image.rootfs.");
        if known {
            return Ok(());
        }
        Err(Error::unsupported(
            format!("layer {} of type {kind}", self.digest),
            "this is an artifact, not a container image",
        ))
    }
}

/// What a registry or a layout gave for a reference.
pub(crate) enum Document {
    Manifest(Box<Manifest>),
    Index(Vec<Descriptor>),
}

impl Document {
    /// Tells the kinds apart by content, since the media type is optional in OCI documents.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let probe: Probe =
            serde_json::from_slice(bytes).map_err(|error| Error::document(what, error))?;
        if probe.schema_version == 1 || probe.fs_layers.is_some() {
            return Err(Error::unsupported(
                format!("{what}: Docker manifest schema 1"),
                "push the image again with a tool made after 2017",
            ));
        }
        if probe.manifests.is_some() == probe.layers.is_some() {
            return Err(Error::document(
                what,
                "neither an image manifest nor an index",
            ));
        }
        if probe.layers.is_some() {
            return Manifest::parse(what, bytes).map(|manifest| Self::Manifest(Box::new(manifest)));
        }
        let index: oci::ImageIndex =
            serde_json::from_slice(bytes).map_err(|error| Error::document(what, error))?;
        if index.manifests().len() > INDEX_LIMIT {
            return Err(Error::document(
                what,
                format!("lists more than {INDEX_LIMIT} manifests"),
            ));
        }
        let manifests = index.manifests().iter().map(|d| Descriptor::of(what, d));
        manifests.collect::<Result<_>>().map(Self::Index)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: u32,
    fs_layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// An image manifest.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let manifest: oci::ImageManifest =
            serde_json::from_slice(bytes).map_err(|error| Error::document(what, error))?;
        if manifest.schema_version() != 2 {
            let why = format!("schema version {}, wanted 2", manifest.schema_version());
            return Err(Error::document(what, why));
        }
        if manifest.layers().len() > LAYER_LIMIT {
            return Err(Error::document(
                what,
                format!("more than {LAYER_LIMIT} layers"),
            ));
        }
        let layers = manifest.layers().iter().map(|d| Descriptor::of(what, d));
        Ok(Self {
            media_type: manifest
                .media_type()
                .as_ref()
                .map_or(OCI_MANIFEST.into(), ToString::to_string),
            config: Descriptor::of(what, manifest.config())?,
            layers: layers.collect::<Result<_>>()?,
            annotations: manifest
                .annotations()
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }

    /// Manifest and configuration must speak of the same layers.
    pub fn check_against(&self, what: &str, config: &Config) -> Result<()> {
        if self.layers.len() == config.diff_ids.len() {
            return Ok(());
        }
        let (layers, diffs) = (self.layers.len(), config.diff_ids.len());
        let why = format!("{layers} layers, but the configuration has {diffs} diff_ids");
        Err(Error::document(what, why))
    }

    /// The layers with their diff and chain ids, bottom first.
    pub fn layers_with(&self, config: &Config) -> Vec<Layer> {
        let mut chain: Option<Digest> = None;
        let with = self
            .layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(layer, diff_id)| {
                let chain_id = chain_id(chain.as_ref(), diff_id);
                chain = Some(chain_id.clone());
                Layer {
                    digest: layer.digest.clone(),
                    compressed_size: layer.size,
                    diff_id: diff_id.clone(),
                    chain_id,
                }
            });
        with.collect()
    }
}

/// image-spec config.md, Layer ChainID.
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// The configuration of an image.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub created: Option<String>,
    pub platform: Platform,
    pub run: ImageConfig,
    pub diff_ids: Vec<Digest>,
    pub history: Vec<History>,
}

impl Config {
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        let what = format!("{what}: configuration");
        let parsed: oci::ImageConfiguration =
            serde_json::from_slice(bytes).map_err(|error| Error::document(&what, error))?;
        let diff_ids = parsed.rootfs().diff_ids().iter().map(|text| text.parse());
        let diff_ids: Result<Vec<Digest>> = diff_ids.collect();
        Ok(Self {
            created: parsed.created().clone(),
            platform: Platform {
                os: parsed.os().to_string(),
                architecture: parsed.architecture().to_string(),
                variant: parsed.variant().clone().unwrap_or_default(),
            },
            run: parsed.config().as_ref().map(run_config).unwrap_or_default(),
            diff_ids: diff_ids.map_err(|error| Error::document(&what, error))?,
            history: parsed.history().iter().flatten().map(history).collect(),
        })
    }
}

fn run_config(config: &oci::Config) -> ImageConfig {
    ImageConfig {
        user: config.user().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone().unwrap_or_default(),
        // Sets in the document: they have no order of their own.
        volumes: sorted(config.volumes().as_ref()),
        exposed_ports: sorted(config.exposed_ports().as_ref()),
        labels: config
            .labels()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
    }
}

fn sorted(set: Option<&Vec<String>>) -> Vec<String> {
    let mut list = set.cloned().unwrap_or_default();
    list.sort();
    list
}

fn history(entry: &oci::History) -> History {
    History {
        created: entry.created().clone(),
        created_by: entry.created_by().clone().unwrap_or_default(),
        comment: entry.comment().clone().unwrap_or_default(),
        empty_layer: entry.empty_layer().unwrap_or_default(),
    }
}

/// The manifest of an index that runs best on a platform.
pub(crate) fn choose<'a>(
    image: &str,
    index: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor> {
    let is_image =
        |d: &&Descriptor| matches!(d.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST);
    let scored = index.iter().filter(is_image).filter_map(|descriptor| {
        let score = descriptor
            .platform
            .as_ref()
            .map_or(Some(0), |p| wanted.score(p))?;
        Some((score, descriptor))
    });
    // Of equals the first wins, as image-spec's index.md asks for.
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, descriptor)| descriptor).ok_or_else(|| {
        let platforms = index
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .map(ToString::to_string);
        let mut available: Vec<String> = platforms.filter(|p| p != "unknown/unknown").collect();
        available.dedup();
        Error::NoPlatform {
            image: image.to_owned(),
            wanted: wanted.to_string(),
            available: available.join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_image_spec() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(None, &a), a);
        assert_eq!(
            chain_id(Some(&a), &b),
            Digest::of(format!("{a} {b}").as_bytes())
        );
    }

    #[test]
    fn schema_1_is_refused_by_name() {
        let text = br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
        let Err(error) = Document::parse("r/a:1", text) else {
            panic!("accepted")
        };
        assert!(error.to_string().contains("schema 1"), "{error}");
    }

    #[test]
    fn dockers_nulls_are_absent_values() {
        let text = br#"{"architecture":"amd64","os":"linux","config":{"User":"","Env":null,
            "Cmd":null,"Entrypoint":null,"Volumes":null,"ExposedPorts":null,"Labels":null,
            "OnBuild":null,"Healthcheck":{"Test":["CMD","true"]}},
            "rootfs":{"type":"layers","diff_ids":[]},"history":null,"docker_version":"20.10"}"#;
        let config = Config::parse("x", text).unwrap();
        assert_eq!(config.run, ImageConfig::default());
    }
}
