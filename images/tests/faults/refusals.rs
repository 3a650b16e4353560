//! Registries that lie and throttle.

use std::sync::atomic::{AtomicUsize, Ordering};

use rrun_images::Error;
use rrun_tests::{Need, require};

use crate::kit::double::{Content, Double, Reply};
use crate::{Client, image};

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
