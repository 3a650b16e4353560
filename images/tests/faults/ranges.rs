//! One large layer over several connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use rrun_tests::{Need, require};

use crate::Client;
use crate::kit::double::{Content, Double, Reply, Request};
use crate::kit::{Blob, Tar, plain};

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
    handler: impl Fn(&Content, &Request) -> Reply + Send + Sync + 'static,
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
    let (running, second) = (Mutex::new(0), Condvar::new());
    let alone = Arc::new(AtomicUsize::new(0));
    let waited = Arc::clone(&alone);
    let asked = pull_large(move |content, request| {
        if request.headers.contains_key("range") {
            // The first range is not answered before another one is asked for.
            let mut running = running.lock().unwrap();
            *running += 1;
            second.notify_all();
            let patience = std::time::Duration::from_secs(60);
            let (guard, timeout) = second
                .wait_timeout_while(running, patience, |running| *running < 2)
                .unwrap();
            drop(guard);
            waited.fetch_add(usize::from(timeout.timed_out()), Ordering::SeqCst);
        }
        content.answer(request)
    });
    assert_eq!(asked.len(), 6, "{asked:?}");
    assert!(
        asked.iter().any(|range| range == "bytes=0-4194303"),
        "{asked:?}"
    );
    assert_eq!(alone.load(Ordering::SeqCst), 0, "one after the other");
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
    // Once; a range that was asked for beside it may arrive later.
    let whole = asked.iter().filter(|range| range.is_empty()).count();
    assert_eq!(whole, 1, "{asked:?}");
}
