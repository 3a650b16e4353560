//! Mirrors.

use rrun_tests::{Need, require};

use crate::kit::double::{Content, Double, Reply};
use crate::{Client, image};

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
