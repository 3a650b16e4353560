//! `policy.json`: requirements by registry, namespace, repository and name.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::key::PublicKey;
use super::keyless::Authority;
use super::root::TrustedRoot;
use crate::{Error, Reference, Result, files};

const FILE_LIMIT: u64 = 1 << 20;

/// What must hold for an image to be taken.
#[derive(Debug)]
pub(super) enum Requirement {
    Accept,
    /// With the rule's text, for the message.
    Reject(String),
    Signed(Box<Signed>),
}

/// A cosign signature of one of these keys, or by a certificate of this authority.
#[derive(Debug)]
pub(super) struct Signed {
    pub keys: Vec<PublicKey>,
    /// Whose logs must have a signature of those keys.
    pub logs: Option<TrustedRoot>,
    /// In the place of keys.
    pub authority: Option<Authority>,
    pub identity: Identity,
}

/// Which name a signature must have been made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The same text, tag or digest included.
    Exact,
    /// The same; a reference by digest needs the repository alone.
    RepoDigestOrExact,
    Repository,
    ExactReference(String),
    ExactRepository(String),
    /// Whatever name: the digest is what was signed. Ours; the containers tools do not know it.
    Digest,
    Remap {
        prefix: String,
        signed: String,
    },
}

/// The parsed policy of registries (`transports.docker`, else `default`).
#[derive(Debug)]
pub(crate) struct Policy {
    scopes: BTreeMap<String, Vec<Requirement>>,
    default: Vec<Requirement>,
}

/// A field that is not known is an error in all of this, as for the containers tools: it may be what
/// restricts the rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Rule>,
    #[serde(default)]
    transports: Transports,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Transports {
    docker: BTreeMap<String, Vec<Rule>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    r#type: String,
    /// Of `signedBy`.
    #[serde(rename = "keyType")]
    _key_type: Option<IgnoredAny>,
    pki: Option<IgnoredAny>,
    key_path: Option<String>,
    key_paths: Option<Vec<String>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    fulcio: Option<Fulcio>,
    rekor_public_key_path: Option<String>,
    rekor_public_key_paths: Option<Vec<String>>,
    rekor_public_key_data: Option<String>,
    rekor_public_key_datas: Option<Vec<String>>,
    /// Sigstore's list of authorities and logs, in the place of all their keys and certificates.
    /// Ours; the containers tools do not know it.
    trusted_root_path: Option<String>,
    trusted_root_data: Option<String>,
    signed_identity: Option<IdentityRule>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fulcio {
    ca_path: Option<String>,
    ca_data: Option<String>,
    /// Ours; the containers tools do not know it.
    ct_log_public_key_path: Option<String>,
    ct_log_public_key_data: Option<String>,
    oidc_issuer: String,
    subject_email: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdentityRule {
    r#type: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

pub(super) fn read(path: &Path) -> Result<Policy> {
    let what = path.display().to_string();
    let bytes = files::read_limited(path, FILE_LIMIT)?;
    parse(&bytes).map_err(|why| Error::document(what, why))
}

fn parse(bytes: &[u8]) -> Result<Policy, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let default = requirements("default", &file.default)?;
    let mut scopes = BTreeMap::new();
    for (scope, rules) in &file.transports.docker {
        scopes.insert(scope.clone(), requirements(scope, rules)?);
    }
    Ok(Policy { scopes, default })
}

impl Policy {
    pub(super) fn accept_all() -> Self {
        Self {
            scopes: BTreeMap::new(),
            default: vec![Requirement::Accept],
        }
    }

    /// Of the most exact scope that speaks of the reference.
    pub(super) fn requirements(&self, reference: &Reference) -> &[Requirement] {
        scopes_of(reference)
            .iter()
            .find_map(|scope| self.scopes.get(scope))
            .unwrap_or(&self.default)
    }
}

/// The name itself, its repository, each namespace above, the registry, its domains, all.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let mut scopes = Vec::new();
    match reference.digest() {
        Some(digest) => scopes.push(reference.with_digest(digest)),
        None => scopes.extend(reference.tagged()),
    }
    let mut name = reference.name();
    loop {
        scopes.push(name.clone());
        match name.rsplit_once('/') {
            Some((parent, _)) => name = parent.to_owned(),
            None => break,
        }
    }
    let host = name.split(':').next().unwrap_or_default().to_owned();
    let mut domain = host.as_str();
    while let Some((_, above)) = domain.split_once('.') {
        scopes.push(format!("*.{above}"));
        domain = above;
    }
    scopes.push(String::new());
    scopes
}

fn requirements(scope: &str, rules: &[Rule]) -> Result<Vec<Requirement>, String> {
    if rules.is_empty() {
        return Err(format!(
            "{scope:?} has no requirement: write reject to refuse"
        ));
    }
    let of = |rule| requirement(scope, rule).map_err(|why| format!("{scope:?}: {why}"));
    rules.iter().map(of).collect()
}

fn requirement(scope: &str, rule: &Rule) -> Result<Requirement, String> {
    match rule.r#type.as_str() {
        "insecureAcceptAnything" => Ok(Requirement::Accept),
        "reject" => Ok(Requirement::Reject(match scope {
            "default" | "" => "the policy rejects what it does not list".to_owned(),
            scope => format!("the policy rejects {scope}"),
        })),
        // Not an error of the file: the machine's other tools may understand it.
        "sigstoreSigned" if rule.pki.is_some() => Ok(Requirement::Reject(format!(
            "the policy wants a certificate of its own authority (pki) for {scope:?}, which is \
             not supported: use fulcio or keyPath"
        ))),
        "sigstoreSigned" => Ok(Requirement::Signed(Box::new(signed(rule)?))),
        "signedBy" => Ok(Requirement::Reject(format!(
            "the policy wants a GPG signature (signedBy) for {scope:?}, which is not supported: \
             use sigstoreSigned"
        ))),
        other => Err(format!("unknown requirement {other:?}")),
    }
}

fn signed(rule: &Rule) -> Result<Signed, String> {
    let keys = keys(
        "key",
        [&rule.key_path, &rule.key_data],
        [&rule.key_paths, &rule.key_datas],
    )?;
    let logs = keys_of_logs(rule)?;
    let root = trusted_root(rule)?;
    if root.is_some() && !logs.is_empty() {
        return Err(ONE_KIND.to_owned());
    }
    let (logs, authority) = match (&rule.fulcio, keys.is_empty()) {
        (Some(fulcio), true) => (None, Some(authority(fulcio, root, logs)?)),
        (None, false) if logs.is_empty() => (root, None),
        (None, false) => (Some(TrustedRoot::of_logs(logs)), None),
        (None, true) if root.is_some() => {
            let why = "trustedRoot needs fulcio with oidcIssuer and subjectEmail, or keyPath: who may sign";
            return Err(why.to_owned());
        }
        _ => return Err("sigstoreSigned needs one of keyPath, keyData and fulcio".to_owned()),
    };
    Ok(Signed {
        keys,
        logs,
        authority,
        identity: rule
            .signed_identity
            .as_ref()
            .map_or(Ok(Identity::RepoDigestOrExact), identity)?,
    })
}

/// PEM keys of files and of base64. `name` is that of the fields, without their ends.
fn keys(
    name: &str,
    [path, data]: [&Option<String>; 2],
    [paths, datas]: [&Option<Vec<String>>; 2],
) -> Result<Vec<PublicKey>, String> {
    let mut keys = Vec::new();
    for path in path.iter().chain(paths.iter().flatten()) {
        keys.push(PublicKey::from_pem(&file(path)?).map_err(|why| format!("{path}: {why}"))?);
    }
    for data in data.iter().chain(datas.iter().flatten()) {
        let key = decode(data).and_then(|pem| PublicKey::from_pem(&pem));
        keys.push(key.map_err(|why| format!("{name}Data: {why}"))?);
    }
    // A list that is empty is a mistake: nobody wants less than one.
    let empty = |list: &&Option<Vec<String>>| list.as_ref().is_some_and(Vec::is_empty);
    if [paths, datas].iter().any(empty) {
        return Err(format!("{name}Paths and {name}Datas need a key"));
    }
    Ok(keys)
}

fn keys_of_logs(rule: &Rule) -> Result<Vec<PublicKey>, String> {
    keys(
        "rekorPublicKey",
        [&rule.rekor_public_key_path, &rule.rekor_public_key_data],
        [&rule.rekor_public_key_paths, &rule.rekor_public_key_datas],
    )
}

fn trusted_root(rule: &Rule) -> Result<Option<TrustedRoot>, String> {
    let path = rule.trusted_root_path.as_ref();
    let data = rule.trusted_root_data.as_ref();
    if path.or(data).is_none() {
        return Ok(None);
    }
    let root = TrustedRoot::parse(&either(path, data, "trustedRoot")?);
    root.map(Some).map_err(|why| format!("trustedRoot: {why}"))
}

const ONE_KIND: &str = "give trustedRoot, or keys and certificates, not both";

/// Of `fulcio`, by single keys and certificates or by a trusted root.
fn authority(
    fulcio: &Fulcio,
    root: Option<TrustedRoot>,
    logs: Vec<PublicKey>,
) -> Result<Authority, String> {
    let (issuer, subject) = (&fulcio.oidc_issuer, &fulcio.subject_email);
    let path = fulcio.ct_log_public_key_path.as_ref();
    let data = fulcio.ct_log_public_key_data.as_ref();
    let has_log = path.or(data).is_some();
    if let Some(root) = root {
        if has_log || fulcio.ca_path.is_some() || fulcio.ca_data.is_some() {
            return Err(ONE_KIND.to_owned());
        }
        return Ok(Authority::of_root(root, issuer, subject));
    }
    if logs.is_empty() {
        return Err("fulcio needs rekorPublicKeyPath, or trustedRootPath".to_owned());
    }
    let ca = either(
        fulcio.ca_path.as_ref(),
        fulcio.ca_data.as_ref(),
        "fulcio.ca",
    )?;
    let authority = Authority::new(&ca, logs, issuer, subject)?;
    if !has_log {
        return Ok(authority);
    }
    authority.with_certificate_logs(&either(path, data, "fulcio.ctLogPublicKey")?)
}

fn identity(rule: &IdentityRule) -> Result<Identity, String> {
    let need = |value: &Option<String>, name: &str| {
        value
            .clone()
            .ok_or_else(|| format!("signedIdentity {} needs {name}", rule.r#type))
    };
    Ok(match rule.r#type.as_str() {
        "matchExact" => Identity::Exact,
        "matchRepoDigestOrExact" => Identity::RepoDigestOrExact,
        "matchRepository" => Identity::Repository,
        "matchDigest" => Identity::Digest,
        "exactReference" => {
            Identity::ExactReference(need(&rule.docker_reference, "dockerReference")?)
        }
        "exactRepository" => {
            Identity::ExactRepository(need(&rule.docker_repository, "dockerRepository")?)
        }
        "remapIdentity" => Identity::Remap {
            prefix: need(&rule.prefix, "prefix")?,
            signed: need(&rule.signed_prefix, "signedPrefix")?,
        },
        other => return Err(format!("unknown signedIdentity {other:?}")),
    })
}

impl Identity {
    /// Whether a signature made for `signed` speaks of the reference. cosign signs names without
    /// a tag, for which only the repository can be compared.
    pub fn matches(&self, signed: &str, reference: &Reference) -> bool {
        let Ok(parsed) = signed.parse::<Reference>() else {
            return *self == Self::Digest;
        };
        let exact = |wanted: &Reference| {
            let tagged = signed
                .rsplit('/')
                .next()
                .is_some_and(|name| name.contains([':', '@']));
            tagged && parsed == *wanted
        };
        let repository = |name: &str| parsed.name() == name;
        match self {
            Self::Digest => true,
            Self::Exact => exact(reference),
            Self::RepoDigestOrExact if reference.digest().is_some() => {
                repository(&reference.name())
            }
            Self::RepoDigestOrExact => exact(reference),
            Self::Repository => repository(&reference.name()),
            Self::ExactReference(wanted) => wanted.parse().is_ok_and(|wanted| exact(&wanted)),
            Self::ExactRepository(wanted) => {
                let wanted = wanted.parse::<Reference>();
                wanted.is_ok_and(|wanted| repository(&wanted.name()))
            }
            Self::Remap { prefix, signed } => {
                let name = reference.name();
                match name.strip_prefix(prefix.as_str()) {
                    Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                        repository(&format!("{signed}{rest}"))
                    }
                    _ => repository(&name),
                }
            }
        }
    }
}

fn file(path: &str) -> Result<Vec<u8>, String> {
    files::read_limited(Path::new(path), FILE_LIMIT).map_err(|error| {
        let source = std::error::Error::source(&error);
        source.map_or(error.to_string(), |source| format!("{error}: {source}"))
    })
}

fn decode(data: &str) -> Result<Vec<u8>, String> {
    let engine = base64::engine::general_purpose::STANDARD;
    engine
        .decode(data.trim())
        .map_err(|_| "data is not base64".to_owned())
}

fn either(path: Option<&String>, data: Option<&String>, name: &str) -> Result<Vec<u8>, String> {
    match (path, data) {
        (Some(path), None) => file(path),
        (None, Some(data)) => decode(data),
        _ => Err(format!("{name}: give one of Path and Data")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn the_most_exact_scope_decides() {
        let text = r#"{"default":[{"type":"reject"}],"transports":{
            "docker":{"docker.io":[{"type":"insecureAcceptAnything"}],
                "docker.io/library/bad":[{"type":"reject"}],
                "*.example.com":[{"type":"insecureAcceptAnything"}],
                "r.io:5000/team/app:1":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]},
            "docker-daemon":{"":[{"type":"insecureAcceptAnything"}]}}}"#;
        let policy = parse(text.as_bytes()).unwrap();
        let taken = |text: &str| policy.check_name(&name(text)).is_ok();
        assert!(taken("busybox") && taken("team/app:2") && taken("a.b.example.com/x"));
        assert!(!taken("bad:1") && !taken("quay.io/x") && !taken("example.com/x"));
        let error = policy
            .check_name(&name("r.io:5000/team/app:1"))
            .unwrap_err();
        assert!(error.to_string().contains("GPG"), "{error}");
    }

    #[test]
    fn a_policy_that_is_not_understood_is_an_error() {
        for bad in [
            "{}",
            r#"{"default":[]}"#,
            r#"{"default":[{"type":"unheardOf"}]}"#,
            r#"{"default":[{"type":"sigstoreSigned"}]}"#,
            r#"{"default":[{"type":"sigstoreSigned","keyPath":"/nowhere"}]}"#,
            r#"{"default":[{"type":"sigstoreSigned","keyData":"!"}]}"#,
            r#"{"default":[{"type":"sigstoreSigned","keyDatas":[]}]}"#,
            r#"{"default":[{"type":"reject","unheardOf":1}]}"#,
            r#"{"default":[{"type":"reject"}],"unheardOf":1}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn identities_match_as_policy_json_says() {
        let by_tag = name("r.io/team/app:1");
        let by_digest = name(&format!("r.io/team/app@{}", crate::Digest::of(b"")));
        let cosign = "r.io/team/app";
        assert!(!Identity::RepoDigestOrExact.matches(cosign, &by_tag));
        assert!(Identity::RepoDigestOrExact.matches("r.io/team/app:1", &by_tag));
        assert!(!Identity::Exact.matches("r.io/team/app:2", &by_tag));
        assert!(Identity::RepoDigestOrExact.matches(cosign, &by_digest));
        assert!(Identity::Repository.matches(cosign, &by_tag));
        assert!(!Identity::Repository.matches("r.io/team/other", &by_tag));
        let remap = Identity::Remap {
            prefix: "r.io".into(),
            signed: "upstream.io".into(),
        };
        assert!(remap.matches("upstream.io/team/app", &by_tag));
        assert!(!remap.matches(cosign, &by_tag));
        assert!(Identity::ExactRepository(cosign.into()).matches(cosign, &name("x.io/y")));
    }
}
