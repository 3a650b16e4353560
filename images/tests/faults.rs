//! Registries that break, lie, throttle, redirect and ask for tokens.
#![allow(clippy::unwrap_used)]

mod kit;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kit::double::{Content, Double, Reply};
use kit::{Blob, Tar, gzip, plain};
use rrun_images::{
    Credentials, Error, ImageId, Progress, PullOptions, Reference, RegistryOptions, Result, Store,
};
use rrun_tests::{Need, require};

fn image() -> Vec<Blob> {
    let noise: String = (0..200_000u32)
        .map(|i| char::from(b' ' + (i.wrapping_mul(2_654_435_761) >> 26) as u8))
        .collect();
    let base = Tar::default().dir("./", 0o755).file("noise", &noise).end();
    vec![gzip(&base), plain(Tar::default().file("top", "1").end())]
}

struct Client {
    _dir: tempfile::TempDir,
    store: Store,
    options: PullOptions,
    retries: Arc<Mutex<Vec<String>>>,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let registry = RegistryOptions {
            credentials: Credentials::Anonymous,
            ..Default::default()
        };
        let options = PullOptions {
            registry,
            ..Default::default()
        };
        Self {
            _dir: dir,
            store,
            options,
            retries: Arc::default(),
        }
    }

    fn pull(&self, name: &str) -> Result<ImageId> {
        let retries = Arc::clone(&self.retries);
        let sink = Arc::new(move |step: Progress| {
            if let Progress::Retry { why, .. } = step {
                retries.lock().unwrap().push(why);
            }
        });
        let reference: Reference = name.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.store.pull(&reference, &self.options, sink))
    }

    /// The image is there, whole.
    fn has(&self, name: &str) {
        let image = self.store.inspect(name).unwrap();
        assert_eq!(
            self.store
                .read_file(&image, "noise", 1 << 20)
                .unwrap()
                .unwrap()
                .len(),
            200_000
        );
        assert_eq!(
            self.store.read_file(&image, "top", 10).unwrap().unwrap(),
            b"1"
        );
    }

    fn has_nothing(&self) {
        assert!(self.store.list().unwrap().is_empty());
        self.store.prune(true).unwrap();
        for dir in ["blobs/sha256", "layers", "ingest"] {
            let left = std::fs::read_dir(self.store.root().join(dir))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{dir}");
        }
    }
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    require!(Need::Root);
    let content = Content::new(&image());
    let big = content.layers[0].to_string();
    let breaks = AtomicUsize::new(0);
    let double = Double::start(move |request| {
        let reply = content.answer(request);
        let cut = request.path.ends_with(&big) && breaks.fetch_add(1, Ordering::SeqCst) < 3;
        if cut {
            let at = reply.body.len() / 3;
            reply.cut(at)
        } else {
            reply
        }
    });
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    client.pull(&name).unwrap();
    client.has(&name);
    assert_eq!(client.retries.lock().unwrap().len(), 3);
}

#[test]
fn a_pull_goes_on_after_the_process_was_gone() {
    require!(Need::Root);
    let content = Content::new(&image());
    let big = content.layers[0].to_string();
    let size = content.blobs[&big].len();
    let dead = Arc::new(AtomicUsize::new(0));
    let (gone, ranges) = (Arc::clone(&dead), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&ranges);
    let double = Double::start(move |request| {
        if !request.path.ends_with(&big) {
            return content.answer(request);
        }
        seen.lock()
            .unwrap()
            .push(request.headers.get("range").cloned());
        match gone.fetch_add(1, Ordering::SeqCst) {
            0 => content.answer(request).cut(size / 2),
            1..9 => Reply::new(503, ""),
            _ => content.answer(request),
        }
    });
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    let error = client.pull(&name).unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    assert!(client.store.list().unwrap().is_empty());
    dead.store(99, Ordering::SeqCst);
    client.pull(&name).unwrap();
    client.has(&name);
    let last = ranges
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .clone()
        .expect("the second pull asks for the rest");
    assert_eq!(last, format!("bytes={}-", size / 2));
}

#[test]
fn a_registry_without_ranges_is_read_over() {
    require!(Need::Root);
    let content = Content::new(&image());
    let big = content.layers[0].to_string();
    let breaks = AtomicUsize::new(0);
    let double = Double::start(move |request| {
        if !request.path.ends_with(&big) {
            return content.answer(request);
        }
        let whole = Reply::new(200, content.blobs[&big].clone());
        if breaks.fetch_add(1, Ordering::SeqCst) == 0 {
            whole.cut(70_000)
        } else {
            whole
        }
    });
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    client.pull(&name).unwrap();
    client.has(&name);
}

#[test]
fn a_range_that_lies_is_refused() {
    require!(Need::Root);
    let content = Content::new(&image());
    let big = content.layers[0].to_string();
    let double = Double::start(move |request| {
        let reply = content.answer(request);
        match (request.path.ends_with(&big), reply.status) {
            (true, 200) => reply.cut(1000),
            (true, _) => Reply::new(206, reply.body).header("Content-Range", "bytes 0-9/10"),
            _ => reply,
        }
    });
    let client = Client::new();
    let error = client
        .pull(&format!("{}/app:1", double.host))
        .unwrap_err()
        .to_string();
    assert!(error.contains("asked for bytes 1000-"), "{error}");
    client.has_nothing();
}

#[test]
fn wrong_bytes_and_lengths_are_refused_and_leave_nothing() {
    require!(Need::Root);
    for fault in 0..3 {
        let content = Content::new(&image());
        let big = content.layers[0].to_string();
        let double = Double::start(move |request| {
            let mut reply = content.answer(request);
            if request.path.ends_with(&big) {
                match fault {
                    0 => *reply.body.last_mut().unwrap() ^= 1,
                    1 => reply.body.push(0),
                    _ => drop(reply.body.pop()),
                }
            }
            reply
        });
        let client = Client::new();
        let error = client.pull(&format!("{}/app:1", double.host)).unwrap_err();
        let right = matches!(
            (fault, &error),
            (0, Error::DigestMismatch { .. }) | (1 | 2, Error::SizeMismatch { .. })
        );
        assert!(right, "{fault}: {error}");
        client.has_nothing();
    }
}

#[test]
fn throttling_is_waited_out() {
    require!(Need::Root);
    let content = Content::new(&image());
    let calls = AtomicUsize::new(0);
    let double = Double::start(move |request| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, "").header("Retry-After", 1),
        1 => Reply::new(502, "<html>"),
        _ => content.answer(request),
    });
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    let start = std::time::Instant::now();
    client.pull(&name).unwrap();
    assert!(start.elapsed().as_millis() >= 1000);
    client.has(&name);
}

#[test]
fn a_registry_that_asks_for_a_day_gets_an_error() {
    let double = Double::start(|_| Reply::new(429, "").header("Retry-After", 86_400));
    let error = Client::new()
        .pull(&format!("{}/app:1", double.host))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("429") && error.contains(&double.host),
        "{error}"
    );
    assert_eq!(double.count("GET"), 1);
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    require!(Need::Root);
    let content = Content::new(&image());
    let (blobs, auths) = (content.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&auths);
    let storage = Double::start(move |request| {
        seen.lock()
            .unwrap()
            .push(request.headers.get("authorization").cloned());
        blobs.answer(request)
    });
    let elsewhere = storage.host.clone();
    let double = Double::start(move |request| {
        if request.headers.get("authorization").map(String::as_str) != Some("Basic dXNlcjpwYXNz") {
            return Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if request.path.contains("/blobs/") {
            let to = format!("http://{elsewhere}{}", request.path);
            return Reply::new(307, "").header("Location", to);
        }
        content.answer(request)
    });
    let mut client = Client::new();
    client.options.registry.credentials = Credentials::Basic {
        username: "user".into(),
        password: "pass".into(),
    };
    let name = format!("{}/app:1", double.host);
    client.pull(&name).unwrap();
    client.has(&name);
    assert!(auths.lock().unwrap().iter().all(Option::is_none));
    assert!(storage.count("/blobs/") >= 3);
}

#[test]
fn tokens_are_fetched_once_and_used() {
    require!(Need::Root);
    let content = Content::new(&image());
    let server = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&server);
    let double = Double::start(move |request| {
        if request.path.starts_with("/token") {
            assert!(
                request.path.contains("scope=repository%3Aapp%3Apull"),
                "{}",
                request.path
            );
            assert!(request.path.contains("service=svc"));
            return Reply::new(200, r#"{"token":"T1","expires_in":300}"#);
        }
        if request.headers.get("authorization").map(String::as_str) != Some("Bearer T1") {
            let realm = realm.lock().unwrap();
            let offer = format!("Bearer realm=\"http://{realm}/token\",service=\"svc\"");
            return Reply::new(401, "").header("WWW-Authenticate", offer);
        }
        content.answer(request)
    });
    server.lock().unwrap().clone_from(&double.host);
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    client.pull(&name).unwrap();
    client.has(&name);
    assert_eq!(double.count("/token"), 1);
}

#[test]
fn a_refused_login_is_said_so() {
    let double = Double::start(|_| {
        Reply::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"no \u001b[31mway"}]}"#,
        )
        .header("WWW-Authenticate", "Basic realm=\"r\"")
    });
    let mut client = Client::new();
    client.options.registry.credentials = Credentials::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let error = client.pull(&format!("{}/app:1", double.host)).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("UNAUTHORIZED no [31mway") && !text.contains('\u{1b}'),
        "{text}"
    );
}

#[test]
fn documents_that_are_no_image_are_refused_by_name() {
    let cases = [
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
        ("{}", "neither an image manifest nor an index"),
        ("[]", "invalid length"),
        ("7", "invalid type"),
        (
            r#"{"schemaVersion":2,"manifests":[]}"#,
            "no manifest for linux",
        ),
    ];
    for (text, why) in cases {
        let double = Double::start(move |_| Reply::new(200, text));
        let error = Client::new()
            .pull(&format!("{}/app:1", double.host))
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
    let huge = Double::start(|_| Reply::new(200, vec![b' '; 5 << 20]));
    let error = Client::new()
        .pull(&format!("{}/app:1", huge.host))
        .unwrap_err()
        .to_string();
    assert!(error.contains("limit"), "{error}");
}

#[test]
fn a_manifest_asked_for_by_digest_must_have_it() {
    let content = Content::new(&image());
    let double = Double::start(move |request| content.answer(request));
    let other = rrun_images::Digest::of(b"other");
    let error = Client::new()
        .pull(&format!("{}/app@{other}", double.host))
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[test]
fn two_pulls_at_once_fetch_each_layer_once() {
    require!(Need::Root);
    let content = Content::new(&image());
    let big = content.layers[0].to_string();
    let double = Double::start(move |request| {
        std::thread::sleep(std::time::Duration::from_millis(30));
        content.answer(request)
    });
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| client.pull(&name))).collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    client.has(&name);
    assert_eq!(double.count(&big), 1);
}

/// One layer of 20 MiB that does not compress.
fn large() -> Vec<Blob> {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..20 << 20)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    vec![plain(
        Tar::default().raw(b"noise", b'0', b"", &noise, 0o644).end(),
    )]
}

/// Pulls an image of one large layer and gives the ranges that were asked for.
fn pull_large(
    handler: impl Fn(&Content, &kit::double::Request) -> Reply + Send + Sync + 'static,
) -> Vec<String> {
    let content = Content::new(&large());
    let big = content.layers[0].to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let double = Double::start(move |request| {
        if request.path.ends_with(&big) {
            let range = request.headers.get("range").cloned().unwrap_or_default();
            seen.lock().unwrap().push(range);
        }
        handler(&content, request)
    });
    let client = Client::new();
    let name = format!("{}/app:1", double.host);
    client.pull(&name).unwrap();
    assert!(client.store.check().unwrap().problems.is_empty());
    asked.lock().unwrap().clone()
}

#[test]
fn a_large_layer_comes_in_ranges_beside_each_other() {
    require!(Need::Root);
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let asked = pull_large(move |content, request| {
        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(100));
        running.fetch_sub(1, Ordering::SeqCst);
        content.answer(request)
    });
    assert_eq!(asked.len(), 6, "{asked:?}");
    assert!(
        asked.iter().any(|range| range == "bytes=0-4194303"),
        "{asked:?}"
    );
    assert!(most.load(Ordering::SeqCst) > 1);
}

#[test]
fn a_broken_range_goes_on_where_it_stopped() {
    require!(Need::Root);
    let breaks = AtomicUsize::new(0);
    let asked = pull_large(move |content, request| {
        let reply = content.answer(request);
        let second = request
            .headers
            .get("range")
            .is_some_and(|r| r == "bytes=4194304-8388607");
        if second && breaks.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut(1_000_000)
        } else {
            reply
        }
    });
    assert!(
        asked.iter().any(|range| range == "bytes=5194304-8388607"),
        "{asked:?}"
    );
}

#[test]
fn a_registry_without_ranges_gives_a_large_layer_whole() {
    require!(Need::Root);
    let asked = pull_large(|content, request| {
        let mut plain = content.answer(request);
        if plain.status == 206 {
            let blob = request.path.rsplit('/').next().unwrap();
            plain = Reply::new(200, content.blobs[blob].clone());
        }
        plain
    });
    assert_eq!(asked.last().map(String::as_str), Some(""), "{asked:?}");
}

#[test]
fn a_registry_that_dies_is_an_error_that_says_all() {
    let content = Content::new(&image());
    let big = content.layers[0].to_string();
    let layer = big.clone();
    let double = Double::start(move |request| {
        let reply = content.answer(request);
        if request.path.ends_with(&big) {
            reply.cut(0)
        } else {
            reply
        }
    });
    let client = Client::new();
    let error = client
        .pull(&format!("{}/team/app:1", double.host))
        .unwrap_err();
    let text = error.to_string();
    for part in [
        double.host.as_str(),
        "team/app",
        layer.as_str(),
        "5 attempts",
    ] {
        assert!(text.contains(part), "{text}: no {part}");
    }
    client.has_nothing();
}

#[test]
fn what_was_kept_and_is_bad_is_fetched_anew() {
    require!(Need::Root);
    let content = Content::new(&image());
    let big = content.layers[0].clone();
    let double = Double::start(move |request| content.answer(request));
    let client = Client::new();
    // As a power cut leaves it: the length is there, the bytes are not.
    let partial = client
        .store
        .root()
        .join(format!("ingest/{}.partial", big.hex()));
    std::fs::write(partial, vec![0; 100]).unwrap();
    let name = format!("{}/app:1", double.host);
    client.pull(&name).unwrap();
    client.has(&name);
    assert!(client.retries.lock().unwrap()[0].contains("no good"));
}

#[test]
fn a_mirror_of_registries_conf_is_asked_first_and_the_registry_next() {
    require!(Need::Root);
    let content = Content::new(&image());
    let documents = content.clone();
    let mirror = Double::start(move |request| {
        assert!(request.path.starts_with("/v2/hub/app/"), "{}", request.path);
        if request.path.contains("/blobs/") {
            return Reply::new(404, "");
        }
        documents.answer(request)
    });
    let origin = Double::start(move |request| content.answer(request));
    let mut client = Client::new();
    let conf = client.store.root().join("../registries.conf");
    std::fs::write(
        &conf,
        format!(
            "[[registry]]\nprefix = \"{0}\"\nlocation = \"{0}\"\n[[registry.mirror]]\nlocation = \"{1}/hub\"\n",
            origin.host, mirror.host
        ),
    )
    .unwrap();
    client.options.registry.registries_conf = Some(conf);
    let name = format!("{}/app:1", origin.host);
    client.pull(&name).unwrap();
    client.has(&name);
    assert_eq!(origin.count("/manifests/"), 0);
    assert!(mirror.count("/manifests/") > 0 && origin.count("/blobs/") >= 3);
}

/// A registry that takes uploads in pieces, and how often it was asked for what.
#[derive(Default)]
struct Uploads {
    has: Vec<u8>,
    started: usize,
    broken: usize,
    done: bool,
}

impl Uploads {
    /// The second piece fails as long as `broken` says.
    fn answer(&mut self, request: &kit::double::Request, big: usize) -> Reply {
        let at = |has: usize| format!("0-{}", has.saturating_sub(1));
        let here = "/v2/app/blobs/uploads/1";
        match request.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "GET" => Reply::new(204, "")
                .header("Range", at(self.has.len()))
                .header("Location", here),
            "POST" => {
                self.started += 1;
                self.has.clear();
                Reply::new(202, "").header("Location", here)
            }
            "PATCH" => {
                let from = format!("{}-", self.has.len());
                assert!(request.headers["content-range"].starts_with(&from));
                if !self.has.is_empty() && self.broken > 0 {
                    self.broken -= 1;
                    return Reply::new(503, "");
                }
                self.has.extend_from_slice(&request.body);
                Reply::new(202, "")
                    .header("Range", at(self.has.len()))
                    .header("Location", here)
            }
            _ => {
                self.done |= self.has.len() == big;
                Reply::new(201, "")
            }
        }
    }
}

#[test]
fn a_push_goes_on_after_the_process_was_gone() {
    require!(Need::Root);
    let (client, dir) = (Client::new(), tempfile::tempdir().unwrap());
    let noise = vec![7; 40 << 20];
    let layer = plain(Tar::default().raw(b"n", b'0', b"", &noise, 0o644).end());
    let (big, digest) = (layer.bytes.len(), rrun_images::Digest::of(&layer.bytes));
    kit::layout(dir.path(), "example.org/app:1", &[layer]);
    client
        .store
        .load(dir.path(), None, &rrun_images::Limits::default())
        .unwrap();
    let uploads = Arc::new(Mutex::new(Uploads {
        broken: 5,
        ..Uploads::default()
    }));
    let shared = Arc::clone(&uploads);
    let double = Double::start(move |request| {
        // The configuration is there already.
        let ours = request.path.ends_with(digest.as_str());
        match request.method.as_str() {
            _ if request.path.contains("/manifests/") => Reply::new(201, ""),
            "HEAD" if !ours => Reply::new(200, ""),
            _ => shared.lock().unwrap().answer(request, big),
        }
    });
    let target: Reference = format!("{}/app:1", double.host).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let push = || {
        let options = &client.options.registry;
        runtime.block_on(
            client
                .store
                .push("example.org/app:1", &target, options, Arc::new(())),
        )
    };
    let error = push().unwrap_err().to_string();
    assert!(
        error.contains("5 attempts") && error.contains("503"),
        "{error}"
    );
    push().unwrap();
    let uploads = uploads.lock().unwrap();
    assert_eq!((uploads.started, uploads.done), (1, true));
    let left = std::fs::read_dir(client.store.root().join("ingest"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
