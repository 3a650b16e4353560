//! Questions that are answered and not kept: what may I do, and who am I.
//!
//! Whoever is let in at all (root on the unix socket, a certificate of the authority) belongs to
//! `system:masters`, and so may do everything: the answers say no more than that.

use serde_json::{Value, json};

use crate::api::resource::Resource;

/// `authorization.k8s.io/v1` `SelfSubjectAccessReview`.
pub static SELF_SUBJECT_ACCESS_REVIEW: Resource = Resource {
    group: "authorization.k8s.io",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    kind: "SelfSubjectAccessReview",
    namespaced: false,
    answer: Some(|review| {
        review["status"] = json!({"allowed": true, "reason": "system:masters may do everything"});
    }),
    ..Resource::BASE
};

/// `authorization.k8s.io/v1` `SelfSubjectRulesReview`.
pub static SELF_SUBJECT_RULES_REVIEW: Resource = Resource {
    group: "authorization.k8s.io",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    kind: "SelfSubjectRulesReview",
    namespaced: false,
    answer: Some(rules),
    ..Resource::BASE
};

/// `authentication.k8s.io/v1` `SelfSubjectReview`.
pub static SELF_SUBJECT_REVIEW: Resource = Resource {
    group: "authentication.k8s.io",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    kind: "SelfSubjectReview",
    namespaced: false,
    answer: Some(|review| {
        let groups = ["system:masters", "system:authenticated"];
        review["status"] = json!({"userInfo": {"username": "kubernetes-admin", "groups": groups}});
    }),
    ..Resource::BASE
};

fn rules(review: &mut Value) {
    review["status"] = json!({"incomplete": false,
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]});
}
