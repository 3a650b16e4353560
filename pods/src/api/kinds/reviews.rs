//! Questions that are answered and not kept: who am I, what may I do, what may another do, whose
//! token is this.

use serde_json::{Value, json};

use crate::api::auth::{Access, User, rbac};
use crate::api::resource::{Asker, Resource};
use crate::api::status::{Result, Status};
use crate::api::validate::text;

const AUTHORIZATION: Resource = Resource {
    group: "authorization.k8s.io",
    namespaced: false,
    ..Resource::BASE
};

/// `authorization.k8s.io/v1` `SelfSubjectAccessReview`.
pub static SELF_SUBJECT_ACCESS_REVIEW: Resource = Resource {
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    kind: "SelfSubjectAccessReview",
    answer: Some(|asker, review| {
        let user = asker.user.clone();
        access(asker, &user, review)
    }),
    ..AUTHORIZATION
};

/// `authorization.k8s.io/v1` `SubjectAccessReview`.
pub static SUBJECT_ACCESS_REVIEW: Resource = Resource {
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    kind: "SubjectAccessReview",
    answer: Some(of_another),
    ..AUTHORIZATION
};

/// `authorization.k8s.io/v1` `LocalSubjectAccessReview`.
pub static LOCAL_SUBJECT_ACCESS_REVIEW: Resource = Resource {
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    kind: "LocalSubjectAccessReview",
    namespaced: true,
    answer: Some(|asker, review| {
        let spec = &review["spec"];
        if text(&spec["resourceAttributes"], "namespace") != asker.namespace {
            return Err(Status::bad_request(
                "spec.resourceAttributes.namespace: must match metadata.namespace",
            ));
        }
        of_another(asker, review)
    }),
    ..AUTHORIZATION
};

/// `authorization.k8s.io/v1` `SelfSubjectRulesReview`.
pub static SELF_SUBJECT_RULES_REVIEW: Resource = Resource {
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    kind: "SelfSubjectRulesReview",
    answer: Some(|asker, review| {
        rules(asker, review);
        Ok(())
    }),
    ..AUTHORIZATION
};

/// `authentication.k8s.io/v1` `SelfSubjectReview`.
pub static SELF_SUBJECT_REVIEW: Resource = Resource {
    group: "authentication.k8s.io",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    kind: "SelfSubjectReview",
    namespaced: false,
    answer: Some(|asker, review| {
        review["status"] = json!({"userInfo": asker.user.info()});
        Ok(())
    }),
    ..Resource::BASE
};

/// `authentication.k8s.io/v1` `TokenReview`.
pub static TOKEN_REVIEW: Resource = Resource {
    group: "authentication.k8s.io",
    plural: "tokenreviews",
    singular: "tokenreview",
    kind: "TokenReview",
    namespaced: false,
    answer: Some(token),
    ..Resource::BASE
};

/// What a review's spec asks for.
fn asked(spec: &Value) -> Result<Access> {
    let (object, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if object.is_object() == path.is_object() {
        return Err(Status::bad_request(
            "spec: exactly one of resourceAttributes and nonResourceAttributes must be specified",
        ));
    }
    let of = |key: &str| text(object, key).to_owned();
    if path.is_object() {
        return Ok(Access {
            verb: text(path, "verb").to_owned(),
            path: text(path, "path").to_owned(),
            ..Access::default()
        });
    }
    let (verb, resource) = (of("verb"), of("resource"));
    // Asking for nothing is asking for everything.
    let star = |text: String| {
        if text.is_empty() {
            "*".to_owned()
        } else {
            text
        }
    };
    Ok(Access {
        verb: star(verb),
        group: of("group"),
        resource: star(resource),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        path: String::new(),
    })
}

fn access(asker: &Asker<'_>, user: &User, review: &mut Value) -> Result<()> {
    let wanted = asked(&review["spec"])?;
    let (allowed, why) = rbac::allowed(asker.client, user, &wanted);
    review["status"] = json!({"allowed": allowed});
    if !why.is_empty() {
        review["status"]["reason"] = json!(why);
    }
    Ok(())
}

fn of_another(asker: &Asker<'_>, review: &mut Value) -> Result<()> {
    let spec = &review["spec"];
    let groups = spec["groups"].as_array().into_iter().flatten();
    let groups: Vec<String> = groups
        .filter_map(|g| g.as_str().map(str::to_owned))
        .collect();
    let name = text(spec, "user").to_owned();
    if name.is_empty() && groups.is_empty() {
        return Err(Status::bad_request(
            "spec.user: at least one of user or group must be specified",
        ));
    }
    let user = User {
        name,
        uid: text(spec, "uid").to_owned(),
        groups,
    };
    access(asker, &user, review)
}

fn rules(asker: &Asker<'_>, review: &mut Value) {
    let ns = text(&review["spec"], "namespace").to_owned();
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if asker.user.is_master() {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for found in rbac::rules(asker.client, asker.user, &ns) {
        if found.rule["nonResourceURLs"].is_array() {
            paths.push(found.rule);
        } else {
            resources.push(found.rule);
        }
    }
    review["status"] =
        json!({"incomplete": false, "resourceRules": resources, "nonResourceRules": paths});
}

fn token(asker: &Asker<'_>, review: &mut Value) -> Result<()> {
    let spec = &review["spec"];
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let Some(tokens) = asker.client.tokens() else {
        return Err(Status::new(503, "ServiceUnavailable", "no key of tokens"));
    };
    review["status"] = match tokens.user(asker.client, text(spec, "token"), &audiences) {
        Ok(user) => {
            let own = vec![tokens.issuer().to_owned()];
            let audiences = if audiences.is_empty() { own } else { audiences };
            json!({"authenticated": true, "user": user.info(), "audiences": audiences})
        }
        Err(why) => json!({"authenticated": false, "error": why, "user": {}}),
    };
    Ok(())
}
