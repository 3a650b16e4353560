//! `process` of config.json, and of an exec.

use rrun_cri_api::v1::LinuxContainerSecurityContext;
use rrun_cri_api::v1::security_profile::ProfileType;
use serde_json::{Value, json};

use super::capabilities::{Sets, sets};
use super::{Input, User};
use crate::error::{Error, Result};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first process, and its capabilities.
pub(super) fn process(input: &Input<'_>, user: &User) -> Result<(Value, Sets)> {
    let config = input.config();
    let security = &input.security;
    let asked = security.capabilities.clone().unwrap_or_default();
    let capabilities = sets(&asked, security.privileged, input.facts.held_capabilities)?;
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args(input)?,
        "env": env(input),
        "cwd": cwd(input)?,
        "capabilities": {
            "bounding": capabilities.bounding,
            "effective": capabilities.bounding,
            "permitted": capabilities.bounding,
            "inheritable": capabilities.ambient,
            "ambient": capabilities.ambient,
        },
        "noNewPrivileges": security.no_new_privs,
    });
    let linux = config.linux.as_ref();
    if let Some(resources) = linux.and_then(|l| l.resources.as_ref()) {
        process["oomScoreAdj"] = json!(oom_score_adj(resources.oom_score_adj, input)?);
    }
    if let Some(profile) = apparmor(input)? {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(labels) = input.labels() {
        process["selinuxLabel"] = json!(labels.process);
    }
    Ok((process, capabilities))
}

/// Kubernetes' rule: a command replaces entrypoint and cmd, arguments alone replace cmd.
fn args(input: &Input<'_>) -> Result<Vec<String>> {
    let config = input.config();
    let image = &input.facts.image;
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        let why = "no command: neither the configuration nor the image has one";
        return Err(Error::invalid(why));
    }
    Ok(all)
}

/// The image's environment under the request's; a later value of a name replaces the earlier.
fn env(input: &Input<'_>) -> Vec<String> {
    let config = input.config();
    let mut env: Vec<String> = vec![PATH.to_owned()];
    if config.tty {
        set(&mut env, "TERM=xterm".into());
    }
    set(&mut env, format!("HOSTNAME={}", input.facts.hostname));
    for entry in &input.facts.image.env {
        set(&mut env, entry.clone());
    }
    for entry in &config.envs {
        let value = String::from_utf8_lossy(&entry.value);
        set(&mut env, format!("{}={value}", entry.key));
    }
    env
}

fn set(env: &mut Vec<String>, entry: String) {
    let name = entry.split('=').next().unwrap_or_default();
    match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn cwd(input: &Input<'_>) -> Result<String> {
    let cwd = [&input.config().working_dir, &input.facts.image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .map_or("/", String::as_str);
    if !cwd.starts_with('/') {
        return Err(Error::invalid(format!(
            "working_dir {cwd:?} is not absolute"
        )));
    }
    Ok(cwd.to_owned())
}

/// The kernel refuses to lower the value without CAP_SYS_RESOURCE, so what the daemon cannot
/// give becomes what it has itself: the closest to what was asked for.
fn oom_score_adj(asked: i64, input: &Input<'_>) -> Result<i64> {
    if !(-1000..=1000).contains(&asked) {
        return Err(Error::invalid(format!(
            "linux.resources.oom_score_adj: {asked} is not between -1000 and 1000"
        )));
    }
    Ok(asked.max(input.facts.oom_floor))
}

/// The AppArmor profile that a container asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedAppArmor {
    /// The runtime's; `said` where the request names it, and does not just say nothing.
    Default {
        /// Not having it is an error.
        said: bool,
    },
    /// One of the machine's.
    Localhost(String),
    /// None.
    Unconfined,
}

/// By the new field or the deprecated one.
#[allow(deprecated)]
pub fn asked_apparmor(security: &LinuxContainerSecurityContext) -> Result<AskedAppArmor> {
    let local = |name: &str| {
        if name.is_empty() {
            let why = "linux.security_context.apparmor: localhost_ref is empty";
            return Err(Error::invalid(why));
        }
        Ok(AskedAppArmor::Localhost(name.to_owned()))
    };
    match &security.apparmor {
        Some(profile) => match profile.profile_type() {
            ProfileType::RuntimeDefault => Ok(AskedAppArmor::Default { said: true }),
            ProfileType::Unconfined => Ok(AskedAppArmor::Unconfined),
            ProfileType::Localhost => {
                let name = &profile.localhost_ref;
                local(name.strip_prefix("localhost/").unwrap_or(name))
            }
        },
        None => match security.apparmor_profile.as_str() {
            "" => Ok(AskedAppArmor::Default { said: false }),
            "runtime/default" => Ok(AskedAppArmor::Default { said: true }),
            "unconfined" => Ok(AskedAppArmor::Unconfined),
            other => match other.strip_prefix("localhost/") {
                Some(name) => local(name),
                None => Err(Error::invalid(format!(
                    "linux.security_context.apparmor_profile: {other:?} is none of \
                     runtime/default, unconfined and localhost/<name>"
                ))),
            },
        },
    }
}

/// A kernel without AppArmor has no default either; a privileged container gets none.
fn apparmor(input: &Input<'_>) -> Result<Option<String>> {
    match asked_apparmor(&input.security)? {
        AskedAppArmor::Unconfined => Ok(None),
        AskedAppArmor::Default { .. } if input.security.privileged => Ok(None),
        AskedAppArmor::Default { .. } => Ok(input
            .facts
            .apparmor_default
            .then(|| crate::apparmor::DEFAULT.to_owned())),
        AskedAppArmor::Localhost(name) if input.facts.apparmor => Ok(Some(name)),
        AskedAppArmor::Localhost(name) => Err(Error::invalid(format!(
            "linux.security_context.apparmor: profile {name:?}, but this kernel has no AppArmor"
        ))),
    }
}

/// The process of an exec: the container's, with another command.
pub fn exec_process(container: &Value, cmd: &[String], tty: bool) -> Result<Value> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty"));
    }
    let mut process = container["process"].clone();
    process["args"] = json!(cmd);
    process["terminal"] = json!(tty);
    if tty && let Some(env) = process["env"].as_array_mut() {
        let has = env
            .iter()
            .any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")));
        if !has {
            env.push(json!("TERM=xterm"));
        }
    }
    Ok(process)
}
