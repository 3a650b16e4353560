//! config.json: loading, and the checks that need no IO.

use crate::{Error, Result, warning};
use oci_spec::runtime::{Capability, Hooks, LinuxMemoryPolicy, LinuxNamespaceType, Spec};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use std::path::Path;

/// Reads and parses a configuration. The bytes are returned as well: the state
/// directory keeps them as they are, unknown fields included.
pub fn load(path: &Path) -> Result<(Spec, Vec<u8>)> {
    let text = read(path)?;
    let spec = parse(&text).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    Ok((spec, text))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    match rrun_sys::fd::read_whole(path) {
        Err(e) if e.is(rrun_sys::path::ENOENT) => {
            let why = format!("JSON specification file {} not found", path.display());
            Err(Error::State(why.into()))
        }
        result => Ok(result?),
    }
}

/// Reads the hooks of a configuration, and passes over the rest of it.
pub fn load_hooks(path: &Path) -> Result<Option<Hooks>> {
    #[derive(Deserialize)]
    struct Only {
        hooks: Option<Hooks>,
    }
    let only: Only = serde_json::from_slice(&read(path)?).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    Ok(only.hooks)
}

/// Parses a configuration straight into its types; only where that fails, once
/// more after leaving out what runc only warns about.
pub fn parse(text: &[u8]) -> serde_json::Result<Spec> {
    let parsed = serde_json::from_slice(text)
        .and_then(check_page_sizes)
        .map(|spec| without_absent_limit(spec, text));
    parsed.or_else(|first| {
        let mut value: Value = serde_json::from_slice(text)?;
        if let Some(process) = value.get_mut("process") {
            relax_process(process);
        }
        relax_page_sizes(&mut value);
        let policy = value
            .pointer("/linux/memoryPolicy")
            .filter(|p| !p.is_null());
        if let Some(Err(why)) = policy.map(LinuxMemoryPolicy::deserialize) {
            return Err(serde_json::Error::custom(memory_policy_error(
                &why.to_string(),
            )));
        }
        serde_json::from_value(value)
            .and_then(check_page_sizes)
            .map_err(|_| first)
    })
}

/// An absent size is parsed as an empty one.
fn check_page_sizes(spec: Spec) -> serde_json::Result<Spec> {
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let mut limits = resources
        .and_then(|r| r.hugepage_limits().as_ref())
        .into_iter()
        .flatten();
    if limits.any(|l| l.page_size().is_empty()) {
        let why = "linux.resources.hugepageLimits: pageSize is missing";
        return Err(serde_json::Error::custom(why));
    }
    Ok(spec)
}

/// `pids: {}` limits nothing, but is parsed as a limit of 0, which is one.
fn without_absent_limit(mut spec: Spec, text: &[u8]) -> Spec {
    let resources = spec
        .linux_mut()
        .as_mut()
        .and_then(|l| l.resources_mut().as_mut());
    if let Some(resources) = resources.filter(|r| r.pids().is_some_and(|p| p.limit() == 0)) {
        let given = serde_json::from_slice::<Value>(text)
            .is_ok_and(|v| v.pointer("/linux/resources/pids/limit").is_some());
        if !given {
            resources.set_pids(None);
        }
    }
    spec
}

/// `pagesize`, as runc reads it too, and so is written by some.
fn relax_page_sizes(value: &mut Value) {
    let limits = value.pointer_mut("/linux/resources/hugepageLimits");
    for limit in limits.and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(limit) = limit.as_object_mut() else {
            continue;
        };
        if let Some(size) = limit.remove("pagesize") {
            limit.entry("pageSize").or_insert(size);
        }
    }
}

/// runc's wording of what is wrong with `linux.memoryPolicy`.
fn memory_policy_error(why: &str) -> String {
    let what = if why.contains("MPOL_F_") {
        " flag"
    } else {
        " mode"
    };
    format!("linux.memoryPolicy: invalid memory policy{what}: {why}")
}

/// The process of `exec --process`, with the same tolerance.
pub fn parse_process(text: &[u8]) -> serde_json::Result<oci_spec::runtime::Process> {
    serde_json::from_slice(text).or_else(|first| {
        let mut value: Value = serde_json::from_slice(text)?;
        relax_process(&mut value);
        serde_json::from_value(value).map_err(|_| first)
    })
}

/// A capability by its name; a warning where there is none of it (config.md#linux-process).
pub fn known_capability(name: &Value) -> Option<Capability> {
    let known = serde_json::from_value(name.clone()).ok();
    if known.is_none() {
        warning!("ignoring unknown or unavailable capability {name}");
    }
    known
}

/// Unknown capabilities are dropped with a warning (runc's rule, so that a
/// configuration made for a newer kernel still runs); an absent user is root.
fn relax_process(process: &mut Value) {
    if let Some(Value::Object(sets)) = process.get_mut("capabilities") {
        for (_, set) in sets.iter_mut() {
            let Some(names) = set.as_array_mut() else {
                continue;
            };
            names.retain(|name| known_capability(name).is_some());
        }
    }
    // oci-spec 0.10 knows these flags by names that are not the specification's.
    let flags = process
        .pointer_mut("/scheduler/flags")
        .and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => {}
        }
    }
    if let Value::Object(process) = process {
        process
            .entry("user")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        process.entry("cwd").or_insert_with(|| Value::from(""));
    }
}

/// Checks that need nothing but the configuration.
pub fn validate(spec: &Spec) -> Result<()> {
    validate_version(spec.version())?;
    match spec.root() {
        Some(root) if !root.path().as_os_str().is_empty() => {}
        _ => return Err(Error::config("root", "no root file system: set root.path")),
    }
    if let Some(process) = spec.process() {
        validate_process(process)?;
    }
    if let Some(hooks) = spec.hooks() {
        validate_hooks(hooks)?;
    }
    if let Some(annotations) = spec.annotations()
        && annotations.contains_key("")
    {
        return Err(Error::config("annotations", "a key is empty"));
    }
    validate_names(spec)?;
    validate_linux(spec)
}

/// Of all hooks before any of them runs.
fn validate_hooks(hooks: &Hooks) -> Result<()> {
    #[allow(
        deprecated,
        reason = "the field is deprecated in the specification, but in use"
    )]
    let prestart = hooks.prestart();
    let kinds = [
        ("prestart", prestart),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in kinds {
        for (index, hook) in list.iter().flatten().enumerate() {
            let field = |name: &str| format!("hooks.{kind}[{index}].{name}");
            let path = hook.path();
            if !path.is_absolute() {
                let why = format!("{} is not an absolute path", path.display());
                return Err(Error::config(field("path"), why));
            }
            if let Some(timeout) = hook.timeout().filter(|t| *t <= 0) {
                let why = format!("{timeout} is not greater than zero");
                return Err(Error::config(field("timeout"), why));
            }
        }
    }
    Ok(())
}

/// Host and domain name belong to a UTS namespace.
fn validate_names(spec: &Spec) -> Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let mut all = namespaces.into_iter().flatten();
    if all.any(|n| n.typ() == LinuxNamespaceType::Uts) {
        return Ok(());
    }
    for (field, name) in [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ] {
        if name.as_ref().is_some_and(|n| !n.is_empty()) {
            let why = format!("unable to set {field} without a private UTS namespace");
            return Err(Error::config(field, why));
        }
    }
    Ok(())
}

fn validate_version(version: &str) -> Result<()> {
    let mut parts = version.split('.');
    let major = parts.next().and_then(|p| p.parse::<u32>().ok());
    if version.is_empty() || (major == Some(1) && parts.next().is_some()) {
        return Ok(());
    }
    Err(Error::config(
        "ociVersion",
        format!("{version:?} is not supported: this runtime reads 1.x"),
    ))
}

/// Checks of a process, that of the configuration or of exec.
pub fn validate_process(process: &oci_spec::runtime::Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::config("process.args", "args must not be empty"));
    }
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        return Err(Error::config(
            "process.cwd",
            "Cwd property must not be empty",
        ));
    }
    if !cwd.is_absolute() {
        return Err(Error::config(
            "process.cwd",
            format!("Cwd must be an absolute path, {} is not", cwd.display()),
        ));
    }
    for (index, variable) in process.env().iter().flatten().enumerate() {
        if variable.contains('\0') {
            let field = format!("process.env[{index}]");
            return Err(Error::config(field, "contains a nul byte"));
        }
    }
    Ok(())
}

fn validate_linux(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    let mut seen: Vec<LinuxNamespaceType> = Vec::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        if seen.contains(&namespace.typ()) {
            let field = format!("linux.namespaces[{index}]");
            let why = format!("malformed spec file: duplicated ns {:?}", namespace.typ());
            return Err(Error::config(field, why));
        }
        seen.push(namespace.typ());
    }
    let new = |kind| {
        let mut all = linux.namespaces().iter().flatten();
        all.any(|n| n.typ() == kind && n.path().as_ref().is_none_or(|p| p.as_os_str().is_empty()))
    };
    let has = |kind| seen.contains(&kind);
    let masks = linux
        .masked_paths()
        .iter()
        .chain(linux.readonly_paths())
        .any(|p| !p.is_empty());
    if masks && !has(LinuxNamespaceType::Mount) {
        return Err(Error::config(
            "linux.maskedPaths",
            "unable to restrict sys entries without a private MNT namespace",
        ));
    }
    let mapped = linux.uid_mappings().as_ref().is_some_and(|m| !m.is_empty())
        || linux.gid_mappings().as_ref().is_some_and(|m| !m.is_empty());
    if new(LinuxNamespaceType::User) && !mapped {
        return Err(Error::config(
            "linux.uidMappings",
            "a new user namespace needs uidMappings and gidMappings",
        ));
    }
    let offsets = linux.time_offsets().as_ref().is_some_and(|t| !t.is_empty());
    if offsets && !new(LinuxNamespaceType::Time) {
        return Err(Error::config(
            "linux.timeOffsets",
            "time namespace is not enabled or is joined",
        ));
    }
    Ok(())
}

/// A container id: runc's alphabet, so that it can name a directory and a cgroup.
pub fn validate_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() {
        return Err(Error::State("container id cannot be empty".into()));
    }
    if !id.chars().all(allowed) || id == "." || id == ".." || id.len() > 1024 {
        return Err(Error::State("invalid container ID format".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> serde_json::Result<oci_spec::runtime::LinuxResources> {
        let text = format!(r#"{{"ociVersion":"1.0.2","linux":{{"resources":{json}}}}}"#);
        let spec = parse(text.as_bytes())?;
        let linux = spec.linux().as_ref().expect("is given");
        Ok(linux.resources().clone().expect("is given"))
    }

    #[test]
    fn absent_limit_of_processes_is_none() {
        assert!(resources(r#"{"pids":{}}"#).unwrap().pids().is_none());
        let zero = resources(r#"{"pids":{"limit":0}}"#).unwrap();
        assert_eq!(zero.pids().unwrap().limit(), 0);
    }

    #[test]
    fn page_size_in_small_letters_is_taken_and_a_missing_one_refused() {
        let limits = resources(r#"{"hugepageLimits":[{"pagesize":"2MB","limit":1}]}"#).unwrap();
        assert_eq!(
            limits.hugepage_limits().as_ref().unwrap()[0].page_size(),
            "2MB"
        );
        assert!(resources(r#"{"hugepageLimits":[{"limit":1}]}"#).is_err());
    }
}
