//! What a path means.

use super::super::resource::Res;

/// A path of the API.
#[derive(Debug, PartialEq)]
pub(crate) enum Route {
    /// Objects, one object, or a part of one.
    Resource(Target),
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/{group}`.
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`.
    GroupVersion(String, String),
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`, and one of their checks: `/readyz/store`.
    Health(String, Option<String>),
    /// `/openapi/v2`.
    OpenApi2,
    /// `/openapi/v3` and `/openapi/v3/{path}`.
    OpenApi3(String),
    /// `/.well-known/openid-configuration`, or (true) `/openid/v1/jwks`.
    OpenId(bool),
    /// `/metrics`.
    Metrics,
    /// `/backup`.
    Backup,
    /// `/`.
    Root,
}

/// What a path below a group version points at.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    pub res: Res,
    /// Empty: all namespaces, or the kind has none.
    pub ns: String,
    /// Empty: the collection.
    pub name: String,
    /// `status`, `log`, …; empty for the object itself.
    pub sub: String,
    /// `/api/v1/watch/…`, the form before `?watch=true`.
    pub watch: bool,
}

/// Finds the kind of a group, a version and a plural.
pub(crate) type Find<'a> = &'a dyn Fn(&str, &str, &str) -> Option<Res>;

/// Reads a path; `None` is a 404.
pub(crate) fn parse(path: &str, find: Find<'_>) -> Option<Route> {
    let decoded: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(super::query::decode)
        .collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Some(Route::Root),
        ["version"] => Some(Route::Version),
        [kind @ ("healthz" | "livez" | "readyz"), check @ ..] if check.len() < 2 => {
            let check = check.first().map(|name| (*name).to_owned());
            Some(Route::Health((*kind).to_owned(), check))
        }
        [".well-known", "openid-configuration"] => Some(Route::OpenId(false)),
        ["openid", "v1", "jwks"] => Some(Route::OpenId(true)),
        ["backup"] => Some(Route::Backup),
        ["metrics"] => Some(Route::Metrics),
        ["openapi", "v2"] => Some(Route::OpenApi2),
        ["openapi", "v3", rest @ ..] => Some(Route::OpenApi3(rest.join("/"))),
        ["api"] => Some(Route::CoreVersions),
        ["api", version] => Some(Route::GroupVersion(String::new(), (*version).into())),
        ["api", version, rest @ ..] => target("", version, rest, find).map(Route::Resource),
        ["apis"] => Some(Route::Groups),
        ["apis", group] => Some(Route::Group((*group).into())),
        ["apis", group, version] => Some(Route::GroupVersion((*group).into(), (*version).into())),
        ["apis", group, version, rest @ ..] => {
            target(group, version, rest, find).map(Route::Resource)
        }
        _ => None,
    }
}

fn target(group: &str, version: &str, rest: &[&str], find: Find<'_>) -> Option<Target> {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let make = |plural: &str, ns: &str, name: &str, sub: &[&str]| {
        let res = find(group, version, plural)?;
        let (ns, name, sub) = (ns.to_owned(), name.to_owned(), sub.join("/"));
        Some(Target {
            res,
            ns,
            name,
            sub,
            watch,
        })
    };
    match rest {
        // A namespace itself has these two below it; everything else there is another kind.
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            make("namespaces", "", name, &[sub])
        }
        ["namespaces", ns, plural, tail @ ..] => {
            let (name, sub) = tail.split_first().map_or(("", tail), |(n, s)| (*n, s));
            make(plural, ns, name, sub).filter(|t| t.res.namespaced)
        }
        [plural] => make(plural, "", "", &[]),
        [plural, name, sub @ ..] => make(plural, "", name, sub).filter(|t| !t.res.namespaced),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    fn of(path: &str) -> Option<(String, String, String, String)> {
        match parse(path, &kinds::find)? {
            Route::Resource(t) => Some((t.res.plural.into(), t.ns, t.name, t.sub)),
            _ => None,
        }
    }

    #[test]
    fn paths() {
        let own = |a: &str, b: &str, c: &str, d: &str| {
            Some((a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned()))
        };
        assert_eq!(of("/api/v1/pods"), own("pods", "", "", ""));
        assert_eq!(
            of("/api/v1/namespaces/a/pods/b/log"),
            own("pods", "a", "b", "log")
        );
        assert_eq!(of("/api/v1/namespaces/a"), own("namespaces", "", "a", ""));
        assert_eq!(
            of("/api/v1/namespaces/a/status"),
            own("namespaces", "", "a", "status")
        );
        assert_eq!(
            of("/apis/apps/v1/namespaces/a/deployments"),
            own("deployments", "a", "", "")
        );
        assert_eq!(of("/api/v1/nodes/n"), own("nodes", "", "n", ""));
        for bad in [
            "/api/v1/pods/x",
            "/apis/apps/v1/pods",
            "/api/v1/namespaces/a/nodes",
            "/x",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(
            parse("/apis/apps", &kinds::find),
            Some(Route::Group("apps".into()))
        );
    }
}
