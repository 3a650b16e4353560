//! The flags of RUN: what a command sees beside the image's files, and its network.

/// What a RUN says beside its command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RunFlags {
    pub mounts: Vec<RunMount>,
    /// True for the host's network; the build's own choice where it is `None`.
    pub host_network: Option<bool>,
}

/// One `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunMount {
    /// Where in the container; empty for a secret that is a variable alone.
    pub target: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Files of the build context, or of a stage or image. Read-only.
    Bind {
        from: Option<String>,
        source: String,
    },
    /// A directory that stays from build to build.
    Cache {
        id: String,
        sharing: Sharing,
        read_only: bool,
        look: Look,
    },
    /// Memory that goes with the command; bytes.
    Tmpfs { size: Option<u64> },
    /// What no layer is to hold.
    Secret {
        id: String,
        required: bool,
        variable: Option<String>,
        look: Look,
    },
}

/// Who else may use a cache meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    Shared,
    Locked,
}

/// Mode and owner of what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Takes the flags off the start of a command.
pub(super) fn flags(text: &str) -> Result<(RunFlags, &str), String> {
    let mut flags = RunFlags::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        match flag.split_once('=') {
            Some(("mount", mount)) => flags.mounts.push(RunMount::parse(mount)?),
            Some(("network", "none")) => flags.host_network = Some(false),
            Some(("network", "host")) => flags.host_network = Some(true),
            Some(("network", "default")) => flags.host_network = None,
            _ => return Err(format!("--{flag} is not supported")),
        }
    }
    Ok((flags, rest))
}

/// `key=value` or `key` of one mount, which are taken one by one.
struct Fields(Vec<(String, Option<String>)>);

impl Fields {
    fn take(&mut self, names: &[&str]) -> Result<Option<String>, String> {
        let found = self.0.iter().position(|(key, _)| names.contains(&&**key));
        match found.map(|at| self.0.remove(at)) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((key, None)) => Err(format!("{key} needs a value")),
        }
    }

    /// A switch: alone, or with true or false.
    fn switch(&mut self, names: &[&str]) -> Result<Option<bool>, String> {
        let found = self.0.iter().position(|(key, _)| names.contains(&&**key));
        match found.map(|at| self.0.remove(at)) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some((key, Some(value))) => match value.as_str() {
                "true" | "1" => Ok(Some(true)),
                "false" | "0" => Ok(Some(false)),
                _ => Err(format!("{key}: write true or false")),
            },
        }
    }

    fn look(&mut self, mode: u32) -> Result<Look, String> {
        let number = |text: Option<String>, radix, default| match text {
            None => Ok(default),
            Some(text) => u32::from_str_radix(&text, radix)
                .map_err(|_| format!("{text:?} is no mode or id in numbers")),
        };
        Ok(Look {
            mode: number(self.take(&["mode"])?, 8, mode)? & 0o7777,
            uid: number(self.take(&["uid"])?, 10, 0)?,
            gid: number(self.take(&["gid"])?, 10, 0)?,
        })
    }
}

impl RunMount {
    /// The stage or image that it takes files from.
    pub fn from(&self) -> Option<&String> {
        match &self.kind {
            Kind::Bind { from, .. } => from.as_ref(),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let field = |part: &str| match part.split_once('=') {
            Some((key, value)) => {
                let value = value.trim_matches('"').to_owned();
                (key.to_ascii_lowercase(), Some(value))
            }
            None => (part.to_ascii_lowercase(), None),
        };
        let mut fields = Fields(text.split(',').map(field).collect());
        let kind = fields.take(&["type"])?;
        let kind = kind.unwrap_or_else(|| "bind".to_owned());
        let mut target = fields
            .take(&["target", "dst", "destination"])?
            .unwrap_or_default();
        let kind = match kind.as_str() {
            "bind" => bind(&mut fields)?,
            "cache" => cache(&mut fields, &target)?,
            "tmpfs" => Kind::Tmpfs {
                size: fields.take(&["size"])?.map(|s| bytes(&s)).transpose()?,
            },
            "secret" => secret(&mut fields, &mut target)?,
            other => return Err(format!("--mount of type {other} is not supported")),
        };
        if let Some((key, _)) = fields.0.first() {
            return Err(format!("--mount: {key:?} is not supported"));
        }
        let variable_alone = matches!(
            &kind,
            Kind::Secret {
                variable: Some(_),
                ..
            }
        );
        if target.is_empty() && !variable_alone {
            return Err("--mount needs a target".to_owned());
        }
        Ok(Self { target, kind })
    }
}

fn bind(fields: &mut Fields) -> Result<Kind, String> {
    let writable = fields.switch(&["rw", "readwrite"])?;
    let read_only = fields.switch(&["ro", "readonly"])?;
    if writable == Some(true) || read_only == Some(false) {
        return Err("a bind mount that can be written is not supported: copy the files".to_owned());
    }
    Ok(Kind::Bind {
        from: fields.take(&["from"])?,
        source: fields.take(&["source", "src"])?.unwrap_or_default(),
    })
}

fn cache(fields: &mut Fields, target: &str) -> Result<Kind, String> {
    let sharing = match fields.take(&["sharing"])?.as_deref() {
        None | Some("shared") => Sharing::Shared,
        // A cache of one's own where another build has it would start empty: waiting is better.
        Some("locked" | "private") => Sharing::Locked,
        Some(other) => return Err(format!("sharing={other}: write shared, locked or private")),
    };
    let read_only = fields.switch(&["ro", "readonly"])?.unwrap_or(false);
    let writable = fields.switch(&["rw", "readwrite"])?.unwrap_or(true);
    Ok(Kind::Cache {
        id: fields.take(&["id"])?.unwrap_or_else(|| target.to_owned()),
        sharing,
        read_only: read_only || !writable,
        look: fields.look(0o755)?,
    })
}

fn secret(fields: &mut Fields, target: &mut String) -> Result<Kind, String> {
    let named = fields.take(&["id"])?;
    let id = match (named, target.rsplit('/').next()) {
        (Some(id), _) => id,
        (None, Some(name)) if !name.is_empty() => name.to_owned(),
        _ => return Err("a secret needs an id".to_owned()),
    };
    let variable = fields.take(&["env"])?;
    if target.is_empty() && variable.is_none() {
        *target = format!("/run/secrets/{id}");
    }
    Ok(Kind::Secret {
        id,
        required: fields.switch(&["required"])?.unwrap_or(false),
        variable,
        look: fields.look(0o400)?,
    })
}

/// `64m`, `1g`, or bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: write as in 64m");
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches('b');
    let (digits, unit) = match lower.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => lower.split_at(at),
        None => (lower, ""),
    };
    let unit: u64 = match unit {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(unit).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<RunMount, String> {
        RunMount::parse(text)
    }

    #[test]
    fn flags_are_taken_off_the_command() {
        let (flags, command) =
            flags("--mount=type=tmpfs,target=/t --network=none  make all").unwrap();
        assert_eq!((flags.mounts.len(), command), (1, "make all"));
        assert_eq!(flags.host_network, Some(false));
        assert!(super::flags("--security=insecure x").is_err());
    }

    #[test]
    fn mounts_have_docker_s_defaults() {
        let root = |mode| Look {
            mode,
            uid: 0,
            gid: 0,
        };
        let bind = Kind::Bind {
            from: None,
            source: String::new(),
        };
        assert_eq!(
            one("target=/src").unwrap(),
            RunMount {
                target: "/src".into(),
                kind: bind
            }
        );
        let cache = one("type=cache,dst=/root/.cache,sharing=locked,uid=5").unwrap();
        let want = Kind::Cache {
            id: "/root/.cache".into(),
            sharing: Sharing::Locked,
            read_only: false,
            look: Look {
                uid: 5,
                ..root(0o755)
            },
        };
        assert_eq!(cache.kind, want);
        let secret = one("type=secret,id=key").unwrap();
        assert_eq!(secret.target, "/run/secrets/key");
        assert_eq!(one("type=secret,id=key,env=KEY").unwrap().target, "");
        let size = Kind::Tmpfs {
            size: Some(64 << 20),
        };
        assert_eq!(one("type=tmpfs,target=/t,size=64m").unwrap().kind, size);
    }

    #[test]
    fn mounts_that_are_not_understood_are_refused() {
        for bad in [
            "type=ssh",
            "type=cache",
            "type=bind,target=/x,rw",
            "type=tmpfs,target=/x,size=1t",
            "type=cache,target=/x,from=stage",
            "type=cache,target=/x,sharing=none",
            "type=cache,target=/x,mode=9",
            "target",
        ] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }
}
