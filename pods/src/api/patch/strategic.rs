//! Strategic merge patch: a merge patch that knows which lists have keys.
//!
//! Directives: `$patch: replace|delete|merge` in an object, `$retainKeys`, and beside a list field
//! `$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD`.

use serde_json::{Map, Value};

use crate::api::schema::{Merge, Schema, Type, TypeId};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

type Done = Result<(), String>;

/// Merges a patch into an object of a type.
pub(super) fn apply(target: &mut Value, patch: &Value, id: TypeId) -> Done {
    let Value::Object(patch) = patch else {
        return Err("the patch is not an object".into());
    };
    let Value::Object(map) = target else {
        return Err("the object is not an object".into());
    };
    object(map, patch, Some(&Type::Struct(id)))
}

/// Type and merge rule of a field.
fn field<'a>(ty: Option<&'a Type>, name: &str) -> (Option<&'a Type>, Merge) {
    match ty {
        Some(Type::Struct(id)) => match Schema::get().of(*id).field(name) {
            Some(f) => (Some(&f.ty), f.merge),
            None => (None, Merge::Default),
        },
        Some(Type::Map(inner)) => (Some(inner), Merge::Default),
        _ => (None, Merge::Default),
    }
}

fn object(map: &mut Map<String, Value>, patch: &Map<String, Value>, ty: Option<&Type>) -> Done {
    match patch.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = Value::Object(patch.clone());
            strip(&mut whole);
            *map = whole.as_object().cloned().unwrap_or_default();
            return Ok(());
        }
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => return Err(format!("Unknown patch type found in map: {other}")),
    }
    if let Some(keep) = patch.get(RETAIN) {
        let keep = keep.as_array().ok_or("$retainKeys is not a list")?;
        map.retain(|k, _| keep.iter().any(|n| n.as_str() == Some(k)));
    }
    for (key, value) in patch.iter().filter(|(k, _)| k.starts_with(DELETE_FROM)) {
        let gone = value
            .as_array()
            .ok_or_else(|| format!("{key} is not a list"))?;
        if let Some(list) = map
            .get_mut(&key[DELETE_FROM.len()..])
            .and_then(Value::as_array_mut)
        {
            list.retain(|v| !gone.contains(v));
        }
    }
    for (key, value) in patch.iter().filter(|(k, _)| !k.starts_with('$')) {
        let (inner, rule) = field(ty, key);
        entry(map, key, value, inner, rule)?;
    }
    order_lists(map, patch, ty)
}

fn entry(
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    ty: Option<&Type>,
    rule: Merge,
) -> Done {
    if value.is_null() || value.get(PATCH).and_then(Value::as_str) == Some("delete") {
        map.remove(key);
        return Ok(());
    }
    match (map.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => object(old, new, ty),
        (Some(Value::Array(old)), Value::Array(new)) => {
            let element = match ty {
                Some(Type::List(inner)) => Some(&**inner),
                _ => None,
            };
            match rule {
                Merge::Key(name) => keyed(old, new, name, element),
                Merge::Set => {
                    for v in new {
                        if !old.contains(v) {
                            old.push(v.clone());
                        }
                    }
                    Ok(())
                }
                Merge::Default | Merge::RetainKeys => {
                    old.clone_from(new);
                    old.iter_mut().for_each(strip);
                    Ok(())
                }
            }
        }
        _ => {
            let mut fresh = value.clone();
            strip(&mut fresh);
            map.insert(key.into(), fresh);
            Ok(())
        }
    }
}

/// Merges lists of objects by a key.
fn keyed(old: &mut Vec<Value>, new: &[Value], key: &str, ty: Option<&Type>) -> Done {
    let directive = |v: &Value| v.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    if new
        .iter()
        .any(|v| directive(v).as_deref() == Some("replace"))
    {
        *old = new
            .iter()
            .filter(|v| directive(v).is_none())
            .cloned()
            .collect();
        old.iter_mut().for_each(strip);
        return Ok(());
    }
    for element in new {
        let Value::Object(patch) = element else {
            return Err("a list that is merged by key holds objects only".into());
        };
        let id = patch
            .get(key)
            .ok_or_else(|| format!("map: {element} does not contain declared merge key: {key}"))?;
        let at = old.iter().position(|o| o.get(key) == Some(id));
        match (directive(element).as_deref(), at) {
            (Some("delete"), _) => old.retain(|o| o.get(key) != Some(id)),
            (_, Some(i)) => {
                if let Some(map) = old[i].as_object_mut() {
                    object(map, patch, ty)?;
                }
            }
            (_, None) => {
                let mut fresh = element.clone();
                strip(&mut fresh);
                old.push(fresh);
            }
        }
    }
    Ok(())
}

/// What is new holds no directives, and no nulls.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|k, v| {
                !k.starts_with("$patch")
                    && k != RETAIN
                    && !k.starts_with(DELETE_FROM)
                    && !k.starts_with(ORDER)
                    && !v.is_null()
            });
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => {
            list.retain(|v| v.get(PATCH).and_then(Value::as_str) != Some("delete"));
            list.iter_mut().for_each(strip);
        }
        _ => {}
    }
}

fn order_lists(
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    ty: Option<&Type>,
) -> Done {
    for (directive, order) in patch.iter().filter(|(k, _)| k.starts_with(ORDER)) {
        let name = &directive[ORDER.len()..];
        let order = order
            .as_array()
            .ok_or_else(|| format!("{directive} is not a list"))?;
        let key = match field(ty, name).1 {
            Merge::Key(key) => Some(key),
            _ => None,
        };
        if let Some(list) = map.get_mut(name).and_then(Value::as_array_mut) {
            reorder(list, order, key);
        }
    }
    Ok(())
}

/// Elements that the order names come in its order; the others stay before the element that they
/// were before.
fn reorder(list: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    fn id<'a>(v: &'a Value, key: Option<&str>) -> &'a Value {
        key.map_or(v, |k| v.get(k).unwrap_or(&Value::Null))
    }
    let rank = |v: &Value| order.iter().position(|o| id(o, key) == id(v, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) = list
        .drain(..)
        .enumerate()
        .partition(|(_, v)| rank(v).is_some());
    named.sort_by_key(|(_, v)| rank(v));
    others.reverse();
    for (was, v) in named {
        while others.last().is_some_and(|(at, _)| *at < was) {
            list.extend(others.pop().map(|(_, o)| o));
        }
        list.push(v);
    }
    list.extend(others.into_iter().rev().map(|(_, o)| o));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(old: Value, patch: Value) -> Value {
        let mut old = old;
        apply(
            &mut old,
            &patch,
            Schema::get().named("core/v1.Pod").unwrap(),
        )
        .unwrap();
        old
    }

    fn containers(all: Value) -> Value {
        json!({"spec": {"containers": all}})
    }

    #[test]
    fn lists_with_keys_are_merged() {
        let old = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
        let new = pod(
            old.clone(),
            containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}])),
        );
        assert_eq!(
            new["spec"]["containers"],
            json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}])
        );
        let gone = pod(
            old.clone(),
            containers(json!([{"name": "a", "$patch": "delete"}])),
        );
        assert_eq!(
            gone["spec"]["containers"],
            json!([{"name": "b", "image": "1"}])
        );
        let whole = pod(
            old,
            containers(json!([{"name": "z"}, {"$patch": "replace"}])),
        );
        assert_eq!(whole["spec"]["containers"], json!([{"name": "z"}]));
    }

    #[test]
    fn element_order() {
        let old = containers(json!([{"name": "a"}, {"name": "b"}, {"name": "server"}]));
        let patch = json!({"spec": {"containers": [{"name": "c"}],
            "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}});
        let names: Vec<String> = pod(old, patch)["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["server", "c", "b", "a"]);
    }

    #[test]
    fn primitive_lists_and_atomic_lists() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [{"name": "a", "args": ["x"]}]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]},
            "spec": {"containers": [{"name": "a", "args": ["y", "z"]}]}});
        let new = pod(old, patch);
        assert_eq!(new["metadata"]["finalizers"], json!(["b", "c"]));
        assert_eq!(new["spec"]["containers"][0]["args"], json!(["y", "z"]));
        assert!(
            new["metadata"]
                .get("$deleteFromPrimitiveList/finalizers")
                .is_none()
        );
    }

    #[test]
    fn objects_are_replaced_deleted_and_trimmed_on_demand() {
        let mut d = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        apply(
            &mut d,
            &patch,
            Schema::get().named("apps/v1.Deployment").unwrap(),
        )
        .unwrap();
        assert_eq!(d["spec"]["strategy"], json!({"type": "Recreate"}));
        let labels = json!({"metadata": {"labels": {"a": "b", "c": "d"}}});
        let new = pod(
            labels.clone(),
            json!({"metadata": {"labels": {"$patch": "replace", "e": "f"}}}),
        );
        assert_eq!(new["metadata"]["labels"], json!({"e": "f"}));
        let new = pod(labels, json!({"metadata": {"labels": {"a": null}}}));
        assert_eq!(new["metadata"]["labels"], json!({"c": "d"}));
    }

    #[test]
    fn a_patch_without_the_key_is_refused() {
        let mut old = containers(json!([{"name": "a"}]));
        let patch = containers(json!([{"image": "x"}]));
        assert!(
            apply(
                &mut old,
                &patch,
                Schema::get().named("core/v1.Pod").unwrap()
            )
            .is_err()
        );
    }
}
