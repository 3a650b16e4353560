//! Images from directories: one layer each, the same bytes for the same input.

use std::path::{Path, PathBuf};

use crate::draft::{Draft, rfc3339};
use crate::install::install;
use crate::pack::{Look, Time};
use crate::store::Lease;
use crate::{
    Compression, Error, History, ImageConfig, ImageId, Layer, Limits, Platform, Reference, Result,
    Store,
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
        let created = rfc3339(build.time);
        let mut draft = Draft {
            config: build.config.clone(),
            extra: std::collections::BTreeMap::new(),
            platform: build.platform.clone(),
            layers: Vec::new(),
            history: Vec::new(),
            created: created.clone(),
        };
        let time = Time::Set(build.time);
        let look = Look {
            owner: Some((0, 0)),
            mode: None,
            time,
            overlay: false,
        };
        for directory in &build.directories {
            let fill =
                |packer: &mut crate::pack::LayerWriter| packer.directory(directory, Path::new(""));
            let layer = self.pack(&mut lease, build.compression, look, fill)?;
            draft.push(self, &mut lease, layer, build.compression)?;
            let name = directory
                .file_name()
                .map_or("/".into(), |name| name.to_string_lossy());
            draft.history.push(History {
                created: Some(created.clone()),
                created_by: format!("rrun-image build-layers {name}"),
                ..History::default()
            });
        }
        draft.commit(self, &mut lease, &build.tags)
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
}
