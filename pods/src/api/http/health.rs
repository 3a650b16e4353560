//! `/livez`, `/readyz` and `/healthz`: named checks, told as Kubernetes tells them.

use std::fmt::Write as _;
use std::time::Duration;

use super::body::{self, Answer};
use super::query::Query;
use super::{Context, read};
use crate::api::status::Result;

/// A disk that hangs takes no writes either.
const LONGEST: Duration = Duration::from_secs(5);

/// One thing that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// That it answers at all.
    Ping,
    /// That what is written is kept.
    Store,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Store => "store",
        }
    }

    async fn run(self, cx: &Context) -> std::result::Result<(), String> {
        match self {
            Self::Ping => Ok(()),
            Self::Store => match tokio::time::timeout(LONGEST, cx.client.check_store()).await {
                Ok(done) => done,
                Err(_) => Err(format!("no answer within {} s", LONGEST.as_secs())),
            },
        }
    }
}

/// The checks of a path. A new start mends no disk, so that `livez` does not look at it.
fn checks(kind: &str) -> &'static [Check] {
    match kind {
        "livez" => &[Check::Ping],
        _ => &[Check::Ping, Check::Store],
    }
}

/// Answers `/{kind}`, or `/{kind}/{check}` for one check, which alone tells why it fails: the whole may be
/// asked for by anybody.
pub(super) async fn answer(
    cx: &Context,
    kind: &str,
    check: Option<&str>,
    query: &Query,
) -> Result<Answer> {
    let all = checks(kind);
    let Some(name) = check else {
        return Ok(whole(cx, kind, all, query).await);
    };
    let found = all.iter().find(|c| c.name() == name);
    let check = found.ok_or_else(read::unknown_path)?;
    Ok(match check.run(cx).await {
        Ok(()) => body::text(200, "ok"),
        Err(why) => body::text(500, format!("internal server error: {why}\n")),
    })
}

async fn whole(cx: &Context, kind: &str, all: &[Check], query: &Query) -> Answer {
    let mut excluded = query.all("exclude");
    let mut found = Vec::new();
    for check in all {
        let asked = excluded.len();
        excluded.retain(|name| name != check.name());
        let outcome = if asked == excluded.len() {
            Some(check.run(cx).await.is_ok())
        } else {
            None
        };
        found.push((check.name(), outcome));
    }
    let (passed, mut text) = tell(kind, &found, &excluded);
    if passed && !query.has("verbose") {
        "ok".clone_into(&mut text);
    }
    body::text(if passed { 200 } else { 500 }, text)
}

/// Whether all passed, and a line for each; what was not looked at has no outcome. `unknown`: names to
/// leave out that no check has.
fn tell(kind: &str, all: &[(&str, Option<bool>)], unknown: &[String]) -> (bool, String) {
    let mut text = String::new();
    for (name, outcome) in all {
        let _ = match outcome {
            Some(true) => writeln!(text, "[+]{name} ok"),
            Some(false) => writeln!(text, "[-]{name} failed: reason withheld"),
            None => writeln!(text, "[+]{name} excluded: ok"),
        };
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        let _ = writeln!(
            text,
            "warn: some health checks cannot be excluded: no matches for {names}"
        );
    }
    let passed = all.iter().all(|(_, outcome)| *outcome != Some(false));
    let end = if passed { "passed" } else { "failed" };
    let _ = writeln!(text, "{kind} check {end}");
    (passed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_named_and_one_left_out_fails_nothing() {
        let found = [("ping", Some(true)), ("store", Some(false))];
        assert_eq!(
            tell("readyz", &found, &[]),
            (
                false,
                "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n".to_owned()
            )
        );
        let found = [("ping", Some(true)), ("store", None)];
        let (passed, text) = tell("readyz", &found, &["etcd".to_owned()]);
        assert!(passed);
        assert_eq!(
            text,
            "[+]ping ok\n[+]store excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"etcd\"\nreadyz check passed\n"
        );
    }
}
