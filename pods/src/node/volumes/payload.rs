//! The files of ConfigMap, Secret, downwardAPI and projected volumes, as data.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume,
};

use crate::api::auth::token::{DEFAULT_SECONDS, times};
use crate::node::memory::every_container;
use crate::node::sources::{Facts, Sources, config_map_data, field, resource, secret_data};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Files by path inside the volume.
pub type Files = BTreeMap<String, File>;

const DEFAULT_MODE: i32 = 0o644;

/// What the volume holds, or why that cannot be told. With a group of the pod, its members can
/// read what the owner can.
pub fn files(
    pod: &Pod,
    volume: &Volume,
    sources: &impl Sources,
    facts: &Facts,
    grouped: bool,
    present: &Path,
) -> Result<Files, String> {
    let mut gather = Gather {
        pod,
        present,
        sources,
        facts,
        grouped,
        files: Files::new(),
    };
    if let Some(map) = &volume.config_map {
        let optional = map.optional == Some(true);
        gather.config_map(&map.name, map.items.as_deref(), optional, map.default_mode)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let optional = secret.optional == Some(true);
        gather.secret(name, secret.items.as_deref(), optional, secret.default_mode)?;
    } else if let Some(downward) = &volume.downward_api {
        gather.downward(downward.items.as_deref(), downward.default_mode)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                let optional = map.optional == Some(true);
                gather.config_map(&map.name, map.items.as_deref(), optional, mode)?;
            } else if let Some(secret) = &source.secret {
                let optional = secret.optional == Some(true);
                gather.secret(&secret.name, secret.items.as_deref(), optional, mode)?;
            } else if let Some(downward) = &source.downward_api {
                gather.downward(downward.items.as_deref(), mode)?;
            } else if let Some(token) = &source.service_account_token {
                gather.token(token, mode)?;
            } else {
                return Err("this projected source is not supported here".to_owned());
            }
        }
    }
    Ok(gather.files)
}

struct Gather<'a, S> {
    pod: &'a Pod,
    /// What the volume holds now.
    present: &'a Path,
    sources: &'a S,
    facts: &'a Facts,
    grouped: bool,
    files: Files,
}

/// Whether a token is to be replaced: four fifths of its life are over, or a day.
fn is_old(token: &str, now: i64) -> bool {
    times(token).is_none_or(|(made, end)| {
        let age = now - made;
        age < 0 || age * 5 > (end - made) * 4 || age > 24 * 3600
    })
}

impl<S: Sources> Gather<'_, S> {
    /// The token that is there, as long as it is young; else a new one.
    fn token(
        &mut self,
        source: &ServiceAccountTokenProjection,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let now = crate::node::now().as_second();
        let present = std::fs::read_to_string(self.present.join(&source.path)).ok();
        let token = match present.filter(|token| !is_old(token, now)) {
            Some(token) => token,
            None => {
                let audience = source.audience.as_deref().unwrap_or_default();
                let seconds = source.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
                self.sources.token(self.pod, audience, seconds)?
            }
        };
        self.put(&source.path, token.into_bytes(), mode)
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let found = self.sources.config_map(name).map(|m| config_map_data(&m));
        self.keys("configmap", name, found, items, optional, mode)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let found = self.sources.secret(name).map(|s| secret_data(&s));
        self.keys("secret", name, found, items, optional, mode)
    }

    fn keys(
        &mut self,
        kind: &str,
        name: &str,
        found: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let data = match found {
            Some(data) => data,
            None if optional => BTreeMap::new(),
            None => return Err(format!("{kind} \"{name}\" not found")),
        };
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, value) in data {
                self.put(&key, value, mode)?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.put(&item.path, value.clone(), item.mode.or(mode))?,
                None if optional => {}
                None => {
                    return Err(format!(
                        "{kind} references non-existent key: {} (in \"{name}\")",
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }

    fn downward(
        &mut self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: Option<i32>,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let value = if let Some(r) = &item.field_ref {
                field(self.pod, self.facts, &r.field_path)
            } else if let Some(r) = &item.resource_field_ref {
                let name = r.container_name.as_deref().unwrap_or_default();
                let all = every_container(self.pod);
                let container = all.iter().find(|c| c.name == name);
                let divisor = r.divisor.as_ref().map(|q| q.0.as_str());
                container.and_then(|c| resource(c, self.facts, &r.resource, divisor))
            } else {
                None
            };
            let value =
                value.ok_or_else(|| format!("downwardAPI item {}: no such field", item.path))?;
            self.put(&item.path, value.into_bytes(), item.mode.or(mode))?;
        }
        Ok(())
    }

    fn put(&mut self, path: &str, data: Vec<u8>, mode: Option<i32>) -> Result<(), String> {
        let plain = Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(part) if !part.is_empty()));
        if !plain || path.starts_with("..") {
            return Err(format!("invalid path \"{path}\" in the volume"));
        }
        let mut mode = u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777;
        if self.grouped {
            mode |= (mode & 0o700) >> 3 & 0o040;
        }
        self.files.insert(path.to_owned(), File { data, mode });
        Ok(())
    }
}
