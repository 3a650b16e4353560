//! Transfers that break off, and what is kept of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rrun_tests::{Need, require};

use crate::kit::double::{Content, Double, Reply};
use crate::{Client, image};

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
