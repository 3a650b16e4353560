//! Tokens, logins that are refused, and where credentials must not go.

use std::sync::{Arc, Mutex};

use rrun_images::{Credentials, Error};
use rrun_tests::{Need, require};

use crate::kit::double::{Content, Double, Reply};
use crate::{Client, image};

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
