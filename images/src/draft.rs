//! A new image: its configuration and manifest, written the same way for the same content.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use oci_spec::image as oci;

use crate::manifest::{self, OCI_CONFIG, OCI_MANIFEST};
use crate::store::{Lease, Record};
use crate::{
    Compression, Digest, Error, History, ImageConfig, ImageId, Layer, Limits, Platform, Reference,
    Result, Store,
};

/// An image under construction.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub config: ImageConfig,
    /// Docker's additions to the configuration: `Healthcheck`, `Shell`.
    pub extra: BTreeMap<String, serde_json::Value>,
    pub platform: Platform,
    /// With their media types.
    pub layers: Vec<(Layer, String)>,
    pub history: Vec<History>,
    /// RFC 3339.
    pub created: String,
}

impl Draft {
    pub fn layers(&self) -> Vec<Layer> {
        self.layers.iter().map(|(layer, _)| layer.clone()).collect()
    }

    /// Puts a packed layer on top and unpacks it.
    pub fn push(
        &mut self,
        store: &Store,
        lease: &mut Lease,
        mut layer: Layer,
        compression: Compression,
    ) -> Result<()> {
        let below = self.layers.last().map(|(layer, _)| &layer.chain_id);
        layer.chain_id = manifest::chain_id(below, &layer.diff_id);
        lease.add([&layer.digest, &layer.chain_id])?;
        self.layers
            .push((layer, compression.media_type().to_owned()));
        store.install_from_blob(&self.layers(), &Limits::default())
    }

    /// Stores the image under its names.
    pub fn commit(&self, store: &Store, lease: &mut Lease, tags: &[Reference]) -> Result<ImageId> {
        let config = self.config_bytes()?;
        let manifest = self.manifest_bytes(&config)?;
        lease.add([&Digest::of(&config), &Digest::of(&manifest)])?;
        let id = store.put_document(&config)?;
        let record = Record {
            manifest: store.put_document(&manifest)?,
            media_type: OCI_MANIFEST.to_owned(),
            size: manifest.len() as u64,
            id: id.clone(),
            tags: tags.iter().filter_map(Reference::tagged).collect(),
            repo_digests: BTreeSet::new(),
            pinned: false,
        };
        store.change(|index| {
            index.add(record);
            Ok(())
        })?;
        Ok(id)
    }

    fn config_bytes(&self) -> Result<Vec<u8>> {
        let history = self.history.iter().map(history_entry);
        let history = history.collect::<Result<Vec<_>, _>>().map_err(built)?;
        let diff_ids = self
            .layers
            .iter()
            .map(|(layer, _)| layer.diff_id.to_string());
        let rootfs = oci::RootFsBuilder::default()
            .typ("layers")
            .diff_ids(diff_ids.collect::<Vec<_>>())
            .build()
            .map_err(built)?;
        let mut config = oci::ImageConfigurationBuilder::default()
            .created(&self.created)
            .os(self.platform.os.as_str())
            .architecture(self.platform.architecture.as_str())
            .config(run_config(&self.config))
            .rootfs(rootfs)
            .history(history);
        if !self.platform.variant.is_empty() {
            config = config.variant(&self.platform.variant);
        }
        let config = config.build().map_err(built)?;
        let mut value =
            serde_json::to_value(config).map_err(|e| Error::document("the new image", e))?;
        for (key, extra) in &self.extra {
            value["config"][key] = extra.clone();
        }
        canonical(&value)
    }

    fn manifest_bytes(&self, config: &[u8]) -> Result<Vec<u8>> {
        let descriptor = |kind: &str, digest: &Digest, size: u64| {
            let digest = digest.as_str().parse::<oci::Digest>().map_err(built)?;
            Ok(oci::Descriptor::new(
                oci::MediaType::from(kind),
                size,
                digest,
            ))
        };
        let layers = self
            .layers
            .iter()
            .map(|(l, kind)| descriptor(kind, &l.digest, l.compressed_size));
        let manifest = oci::ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(OCI_MANIFEST)
            .config(descriptor(
                OCI_CONFIG,
                &Digest::of(config),
                config.len() as u64,
            )?)
            .layers(layers.collect::<Result<Vec<_>>>()?)
            .build()
            .map_err(built)?;
        canonical(&manifest)
    }
}

fn built(error: oci_spec::OciSpecError) -> Error {
    Error::document("the new image", error)
}

fn history_entry(entry: &History) -> Result<oci::History, oci_spec::OciSpecError> {
    let mut history = oci::HistoryBuilder::default().created_by(&entry.created_by);
    if let Some(created) = &entry.created {
        history = history.created(created);
    }
    if !entry.comment.is_empty() {
        history = history.comment(&entry.comment);
    }
    if entry.empty_layer {
        history = history.empty_layer(true);
    }
    history.build()
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
pub(crate) fn rfc3339(seconds: u64) -> String {
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
