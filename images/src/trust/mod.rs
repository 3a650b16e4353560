//! Trust: which images this machine takes, by `policy.json`(5) of the containers tools, and the
//! cosign signatures that it may ask for. Checked when the manifest is known, before a layer is
//! fetched.

mod body;
mod bundle;
mod checkpoint;
#[cfg(test)]
mod conformance;
mod cosign;
mod der;
mod key;
mod keyless;
mod log;
mod material;
mod policy;
mod proto;
mod root;
mod sct;
mod signature;
mod timestamp;

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::registry::Remote;
use crate::{Digest, Error, Reference, Result};

pub(crate) use policy::Policy;
use policy::Requirement;

/// More than anybody signs an image with.
const SIGNATURES: usize = 50;

impl Policy {
    /// The policy of a file, or of the machine: the user's own
    /// (`~/.config/containers/policy.json`), else `/etc/containers/policy.json`, else all is
    /// taken.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        if let Some(file) = file {
            return policy::read(file);
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let own = home.map(|home| Path::new(&home).join(".config/containers/policy.json"));
        let machine = Some("/etc/containers/policy.json".into());
        match [own, machine].into_iter().flatten().find(|p| p.exists()) {
            Some(path) => policy::read(&path),
            None => Ok(Self::accept_all()),
        }
    }

    /// Refuses what no signature could allow, before anything is asked of the registry.
    pub fn check_name(&self, reference: &Reference) -> Result<()> {
        let reject = |r: &&Requirement| matches!(r, Requirement::Reject(_));
        match self.requirements(reference).iter().find(reject) {
            Some(Requirement::Reject(why)) => Err(rejected(reference, why)),
            _ => Ok(()),
        }
    }

    /// Checks the signatures of an image. `digests` are those of its index and manifest, of which
    /// one must be signed: the index names the manifest by its digest.
    pub async fn check(
        &self,
        reference: &Reference,
        digests: &[Digest],
        remote: &Arc<Remote>,
    ) -> Result<()> {
        self.check_name(reference)?;
        let (mut tagged, mut bundles) = (None, None);
        for requirement in self.requirements(reference) {
            let Requirement::Signed(signed) = requirement else {
                continue;
            };
            if tagged.is_none() {
                tagged = Some(cosign::fetch(remote, digests).await?);
            }
            let found = tagged.as_deref().unwrap_or_default();
            let Err(why) = signature::judge(found, signed, reference) else {
                continue;
            };
            // Only then: a machine that reaches a mirror alone may get no answer to this.
            if bundles.is_none() {
                bundles = Some(bundle::fetch(remote, digests).await?);
            }
            let found = bundles.as_deref().unwrap_or_default();
            let judged = signature::judge(found, signed, reference);
            // What is wrong with a bundle says more than that there is no tag.
            judged.map_err(|other| {
                rejected(reference, if found.is_empty() { &why } else { &other })
            })?;
        }
        Ok(())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok()
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn rejected(reference: &Reference, why: &str) -> Error {
    Error::Rejected {
        image: reference.to_string(),
        why: why.to_owned(),
    }
}

/// For the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse_der(data: &[u8]) {
    let _ = der::extensions(data);
    sct::parse(data);
    let _ = der::is_self_issued(data);
    let _ = body::Body::parse(data);
    let _ = key::PublicKey::from_spki(data);
    let _ = key::PublicKey::from_pem(data);
    let _ = bundle::parse(&Digest::of(b""), data);
    let _ = root::TrustedRoot::parse(data);
    let _ = timestamp::verify(data, b"", &[]);
}
