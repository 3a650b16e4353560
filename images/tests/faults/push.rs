//! Pushes that break off.

use std::sync::{Arc, Mutex};

use rrun_images::Reference;
use rrun_tests::{Need, require};

use crate::Client;
use crate::kit::double::{Double, Reply, Request};
use crate::kit::{self, Tar, plain};

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
    fn answer(&mut self, request: &Request, big: usize) -> Reply {
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
