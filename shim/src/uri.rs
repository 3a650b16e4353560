//! Where standard input comes from, and where output goes.

use rrun_task_api::Status;
use std::path::PathBuf;

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Null,
    /// A FIFO that somebody else reads.
    Fifo(PathBuf),
    /// Appended to a file, as it is.
    File(PathBuf),
    /// Written as a Kubernetes log.
    Log(LogTarget),
    /// A program that reads it, and its arguments (`binary:///path?key=value`).
    Binary(PathBuf, Vec<(String, String)>),
    /// Only to who attaches; waits for them.
    Attach,
}

/// A Kubernetes log and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    /// Absolute.
    pub path: PathBuf,
    /// Bytes per second that are let through in the long run; 0 is without limit.
    pub rate: u64,
    /// Bytes that may come at once above the rate.
    pub burst: u64,
}

/// Where input comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it ends at once.
    Null,
    /// A FIFO that somebody else writes.
    Fifo(PathBuf),
    /// Who attaches.
    Attach,
}

/// Parses the URI of an output.
pub fn target(uri: &str) -> Result<Target, Status> {
    if uri.is_empty() {
        return Ok(Target::Null);
    }
    if uri == "attach:" {
        return Ok(Target::Attach);
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(Target::Fifo(absolute(uri, uri)?));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = absolute(&unescape(path), uri)?;
    Ok(match scheme {
        "fifo" => Target::Fifo(path),
        "file" => Target::File(path),
        "cri-log" => Target::Log(log(path, query, uri)?),
        "binary" => Target::Binary(path, pairs(query)),
        _ => {
            return Err(Status::invalid(format!(
                "output URI {uri:?}: unknown scheme {scheme:?}; known are fifo, file, binary and \
                 cri-log"
            )));
        }
    })
}

/// Parses the URI of standard input.
pub fn source(uri: &str) -> Result<Source, Status> {
    match uri {
        "" => Ok(Source::Null),
        "attach:" => Ok(Source::Attach),
        _ => match uri.split_once("://") {
            None => Ok(Source::Fifo(absolute(uri, uri)?)),
            Some(("fifo", path)) => Ok(Source::Fifo(absolute(path, uri)?)),
            Some((scheme, _)) => Err(Status::invalid(format!(
                "stdin URI {uri:?}: scheme {scheme:?} cannot be read; use a FIFO's path"
            ))),
        },
    }
}

fn absolute(path: &str, uri: &str) -> Result<PathBuf, Status> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err(Status::invalid(format!(
            "URI {uri:?}: path {path:?} is not absolute"
        )))
    }
}

fn log(path: PathBuf, query: &str, uri: &str) -> Result<LogTarget, Status> {
    let mut target = LogTarget {
        path,
        rate: 0,
        burst: 0,
    };
    for (key, value) in pairs(query) {
        let number: u64 = value.parse().map_err(|_| {
            Status::invalid(format!(
                "URI {uri:?}: {key}={value} is not a number of bytes"
            ))
        })?;
        match key.as_str() {
            "rate" => target.rate = number,
            "burst" => target.burst = number,
            _ => {
                return Err(Status::invalid(format!(
                    "URI {uri:?}: unknown parameter {key:?}; known are rate and burst"
                )));
            }
        }
    }
    if target.burst == 0 {
        target.burst = target.rate;
    }
    Ok(target)
}

fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key), unescape(value))
        })
        .collect()
}

/// Decodes %XX; what is no escape stays as it is.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme() {
        assert_eq!(target("").unwrap(), Target::Null);
        assert_eq!(target("/run/f").unwrap(), Target::Fifo("/run/f".into()));
        assert_eq!(
            target("fifo:///run/f").unwrap(),
            Target::Fifo("/run/f".into())
        );
        assert_eq!(
            target("file:///l/a%20b").unwrap(),
            Target::File("/l/a b".into())
        );
        let log = LogTarget {
            path: "/l".into(),
            rate: 10,
            burst: 10,
        };
        assert_eq!(target("cri-log:///l?rate=10").unwrap(), Target::Log(log));
        let args = vec![
            ("a".to_owned(), "b".to_owned()),
            ("c".to_owned(), String::new()),
        ];
        assert_eq!(
            target("binary:///l?a=b&c").unwrap(),
            Target::Binary("/l".into(), args)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for bad in [
            "file://x",
            "x",
            "gopher:///x",
            "cri-log:///l?rate=x",
            "cri-log:///l?speed=1",
        ] {
            let error = target(bad).unwrap_err();
            assert!(error.message.contains(bad), "{error}");
        }
        assert!(source("file:///x").is_err());
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(unescape("a%2fb%zz%2"), "a/b%zz%2");
        assert_eq!(unescape("%é"), "%é");
    }
}
