//! The files of the page, and what it may ask.

/// Of every answer: nothing from elsewhere is loaded, run, framed or told of.
pub const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// The content type and text of a file of the page.
pub fn file(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/" => Some(("text/html; charset=utf-8", include_str!("page.html"))),
        "/page.js" => Some(("text/javascript; charset=utf-8", include_str!("page.js"))),
        "/page.css" => Some(("text/css; charset=utf-8", include_str!("page.css"))),
        _ => None,
    }
}

/// Lists that the page shows.
const LISTS: &[&str] = &[
    "/api/v1/pods",
    "/api/v1/nodes",
    "/api/v1/events",
    "/api/v1/services",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/batch/v1/jobs",
    "/apis/batch/v1/cronjobs",
    "/apis/metrics.k8s.io/v1beta1/pods",
    "/apis/rrun.io/v1/capsules",
];

/// Whether the page may ask for this: no Secret, and nothing that is not read.
pub fn may_ask(path: &str) -> bool {
    LISTS.contains(&path) || is_log(path)
}

/// `/api/v1/namespaces/<namespace>/pods/<pod>/log`.
fn is_log(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let plain = |name: &str| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        !name.is_empty() && name != "." && name != ".." && name.bytes().all(known)
    };
    match parts.as_slice() {
        ["", "api", "v1", "namespaces", ns, "pods", pod, "log"] => plain(ns) && plain(pod),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_lists_and_logs_alone() {
        for path in [
            "/api/v1/pods",
            "/apis/rrun.io/v1/capsules",
            "/api/v1/namespaces/a/pods/b-1.c/log",
        ] {
            assert!(may_ask(path), "{path}");
        }
        for path in [
            "/api/v1/secrets",
            "/api/v1/namespaces/a/pods/b/exec",
            "/api/v1/namespaces/a/secrets/b",
            "/api/v1/namespaces/a/pods/../log",
            "/api/v1/namespaces/a/pods/%2e%2e/log",
            "/api/v1/pods/",
            "/backup",
        ] {
            assert!(!may_ask(path), "{path}");
        }
    }

    #[test]
    fn nothing_of_an_object_becomes_markup() {
        let (_, script) = file("/page.js").unwrap();
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!script.contains(way), "{way}");
        }
    }
}
