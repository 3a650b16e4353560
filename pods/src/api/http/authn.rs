//! Who a request is from, and whether the roles allow it.

use hyper::{HeaderMap, Method};

use super::query::Query;
use super::route::{Route, Target};
use super::{Context, header};
use crate::api::auth::{Access, User, account_of, rbac};
use crate::api::status::{Result, Status};

fn unauthorized() -> Status {
    Status::new(401, "Unauthorized", "Unauthorized")
}

/// Who asks: the holder of the token of the request, else of the connection's certificate; and then
/// whoever the request says to ask in the name of.
pub(super) fn caller(
    cx: &Context,
    connection: Option<&User>,
    headers: &HeaderMap,
) -> Result<Option<User>> {
    let user = match header(headers, "authorization").split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let tokens = cx.client.tokens().ok_or_else(unauthorized)?;
            let user = tokens.user(&cx.client, token.trim(), &[]).map_err(|why| {
                tracing::debug!("token refused: {why}");
                unauthorized()
            })?;
            Some(user)
        }
        _ => connection.cloned(),
    };
    match user {
        Some(user) => impersonated(cx, user, headers).map(Some),
        None => Ok(None),
    }
}

fn refuse(user: &User, access: &Access) -> Status {
    let refusal = access.refusal(user);
    if access.resource.is_empty() {
        return Status::new(403, "Forbidden", format!("forbidden: {refusal}"));
    }
    let mut target = access.resource.clone();
    if !access.group.is_empty() {
        target = format!("{target}.{}", access.group);
    }
    let name = &access.name;
    Status::new(
        403,
        "Forbidden",
        format!("{target} \"{name}\" is forbidden: {refusal}").replace(" \"\" is", " is"),
    )
}

fn must(cx: &Context, user: &User, access: &Access) -> Result<()> {
    if rbac::allowed(&cx.client, user, access).0 {
        Ok(())
    } else {
        Err(refuse(user, access))
    }
}

/// `Impersonate-User` and `Impersonate-Group`, for who may.
fn impersonated(cx: &Context, user: User, headers: &HeaderMap) -> Result<User> {
    let name = header(headers, "impersonate-user");
    let all = headers.get_all("impersonate-group").iter();
    let groups: Vec<String> = all
        .filter_map(|g| g.to_str().ok().map(str::to_owned))
        .collect();
    if name.is_empty() {
        if groups.is_empty() {
            return Ok(user);
        }
        return Err(Status::bad_request(
            "Impersonate-Group: requires Impersonate-User",
        ));
    }
    let of = |resource: &str, ns: &str, name: &str| Access {
        verb: "impersonate".into(),
        resource: resource.into(),
        namespace: ns.into(),
        name: name.into(),
        ..Access::default()
    };
    let account = account_of(name);
    match account {
        Some((ns, account)) => must(cx, &user, &of("serviceaccounts", ns, account))?,
        None => must(cx, &user, &of("users", "", name))?,
    }
    for group in &groups {
        must(cx, &user, &of("groups", "", group))?;
    }
    Ok(match account {
        Some((ns, account)) if groups.is_empty() => User::account(ns, account),
        _ => User::new(name, groups),
    })
}

/// Refuses what no role of the user allows.
pub(super) fn authorize(
    cx: &Context,
    user: &User,
    method: &Method,
    path: &str,
    route: &Route,
    query: &Query,
) -> Result<()> {
    if user.is_master() {
        return Ok(());
    }
    let access = match route {
        Route::Resource(target) => of_target(target, method, query),
        _ => Access {
            verb: method.as_str().to_lowercase(),
            path: path.to_owned(),
            ..Access::default()
        },
    };
    must(cx, user, &access)
}

fn of_target(t: &Target, method: &Method, query: &Query) -> Access {
    let one = !t.name.is_empty();
    let stream = super::stream::is_stream(t);
    let verb = match method.as_str() {
        // A WebSocket begins with GET, and yet runs a command.
        _ if stream => "create",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if one => "delete",
        "DELETE" => "deletecollection",
        _ if t.watch || (!one && query.flag("watch")) => "watch",
        _ if one => "get",
        _ => "list",
    };
    Access {
        verb: verb.to_owned(),
        group: t.res.group.to_owned(),
        resource: t.res.plural.to_owned(),
        subresource: t.sub.clone(),
        namespace: t.ns.clone(),
        name: t.name.clone(),
        path: String::new(),
    }
}
