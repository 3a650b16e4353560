//! Annotations of config.json: the container's own, and those by which hooks and other tools of
//! the field find the pod.

use std::collections::BTreeMap;

use super::Input;

/// The container's annotations and the well-known ones.
pub(super) fn annotations(input: &Input<'_>) -> BTreeMap<String, String> {
    let sandbox = input.sandbox.metadata();
    let config = input.config();
    let image = config.image.clone().unwrap_or_default();
    let image = [
        image.user_specified_image,
        image.image,
        input.container.image_ref.clone(),
    ];
    let mut all: BTreeMap<String, String> = config.annotations.clone().into_iter().collect();
    for (key, value) in [
        ("container-type", "container".to_owned()),
        ("sandbox-id", input.sandbox.id.clone()),
        ("sandbox-name", sandbox.name),
        ("sandbox-namespace", sandbox.namespace),
        ("sandbox-uid", sandbox.uid),
        ("container-name", input.container.metadata().name),
        (
            "image-name",
            image
                .into_iter()
                .find(|name| !name.is_empty())
                .unwrap_or_default(),
        ),
    ] {
        all.insert(format!("io.kubernetes.cri.{key}"), value);
    }
    all
}
