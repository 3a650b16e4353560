//! Platforms (`os/architecture[/variant]`) and the choice of a manifest out of an index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A platform in Go's names, as image-spec wants them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm` …
    pub architecture: String,
    /// `v7` for arm, `v2` for amd64 …, empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        }
    }

    /// How well an image of platform `offered` runs on this platform: the highest is the best,
    /// `None` is not at all. An older variant of the same architecture runs; a newer one does not.
    pub fn score(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let level = |p: &Platform| match (p.architecture.as_str(), p.variant.as_str()) {
            ("arm64", "") => Some(8),
            ("arm", "") => Some(7),
            (_, "") => Some(1),
            (_, variant) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        if self.variant == offered.variant {
            return Some(1000);
        }
        match (level(self), level(offered)) {
            (Some(ours), Some(theirs)) if theirs <= ours => Some(theirs + 1),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(good) {
            return Err(Error::Platform(text.to_owned()));
        }
        let architecture = match parts[1] {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            other => other,
        };
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: architecture.to_owned(),
            variant: parts.get(2).map_or(String::new(), ToString::to_string),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_that_runs_wins() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let v7 = platform("linux/arm/v7");
        assert!(v7.score(&platform("linux/arm/v7")) > v7.score(&platform("linux/arm/v6")));
        assert!(v7.score(&platform("linux/arm/v6")) > v7.score(&platform("linux/arm/v5")));
        assert_eq!(v7.score(&platform("linux/arm/v8")), None);
        assert!(
            platform("linux/arm64/v8")
                .score(&platform("linux/arm64"))
                .is_some()
        );
        assert!(
            platform("linux/arm64")
                .score(&platform("linux/arm64/v8"))
                .is_some()
        );
        assert_eq!(
            platform("linux/amd64").score(&platform("linux/amd64/v3")),
            None
        );
        assert_eq!(
            platform("linux/amd64").score(&platform("windows/amd64")),
            None
        );
        assert!("linux".parse::<Platform>().is_err());
        assert!("linux//v1".parse::<Platform>().is_err());
    }
}
