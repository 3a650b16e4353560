//! Objects along their types: which fields they have, how two differ, how one is merged into
//! another, and what is left when a set is taken away.

use serde_json::{Map, Value};

use super::Set;
use crate::api::schema::{Field, Owner, Schema, Type};

/// How a value is taken apart.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Not at all.
    Atom,
    /// By the fields of a structure.
    Struct(&'a [Field]),
    /// By the keys of a map, each of this type.
    Map(&'a Type),
    /// By the elements of a list that is a set.
    Set,
    /// By the elements of a list, named by these fields of theirs.
    List(&'a Type, &'a [&'static str]),
}

impl<'a> Shape<'a> {
    /// Of a type that no field marks.
    pub fn of(ty: &'a Type) -> Self {
        match ty {
            Type::Struct(id) => Self::Struct(&Schema::get().of(*id).fields),
            Type::Inline(of) => Self::Struct(&of.fields),
            Type::Map(inner) => Self::Map(inner),
            _ => Self::Atom,
        }
    }

    fn of_field(field: &'a Field) -> Self {
        match (&field.owner, &field.ty) {
            (Owner::Default, ty) => Self::of(ty),
            (Owner::Set, Type::List(_)) => Self::Set,
            (Owner::Keys(keys), Type::List(inner)) => Self::List(inner, keys),
            _ => Self::Atom,
        }
    }

    /// Shape of what a step leads to.
    fn step(self, name: &str) -> Self {
        match self {
            Self::Struct(fields) => fields
                .binary_search_by(|f| f.name.cmp(name))
                .map_or(Self::Atom, |i| Self::of_field(&fields[i])),
            Self::Map(inner) => Self::of(inner),
            Self::List(inner, _) => Self::of(inner),
            Self::Atom | Self::Set => Self::Atom,
        }
    }
}

/// The step to an element of a list with keys. A key that is absent has its default.
fn key_step(element: &Value, ty: &Type, keys: &[&str]) -> String {
    let mut own = Map::new();
    for key in keys {
        let value = element.get(*key).cloned().or_else(|| {
            let of = match ty {
                Type::Struct(id) => Schema::get().of(*id),
                Type::Inline(of) => of,
                _ => return None,
            };
            let default = of.field(key)?.default?;
            serde_json::from_str(default).ok()
        });
        own.extend(value.map(|v| ((*key).to_owned(), v)));
    }
    format!("k:{}", Value::Object(own))
}

/// The parts of a value: step, value, shape. `None` when the value is one whole.
fn parts<'v, 's>(
    value: &'v Value,
    shape: Shape<'s>,
) -> Option<Vec<(String, &'v Value, Shape<'s>)>> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => Some(
            map.iter()
                .map(|(k, v)| (format!("f:{k}"), v, shape.step(k)))
                .collect(),
        ),
        (Shape::List(ty, keys), Value::Array(list)) => Some(
            list.iter()
                .map(|v| (key_step(v, ty, keys), v, shape.step("")))
                .collect(),
        ),
        (Shape::Set, Value::Array(list)) => Some(
            list.iter()
                .map(|v| (format!("v:{v}"), v, Shape::Atom))
                .collect(),
        ),
        _ => None,
    }
}

fn is_list(shape: Shape<'_>) -> bool {
    matches!(shape, Shape::List(..) | Shape::Set)
}

/// Every field that a value has.
pub(super) fn fields(value: &Value, shape: Shape<'_>) -> Set {
    let Some(parts) = parts(value, shape) else {
        return Set::leaf();
    };
    if parts.is_empty() {
        return Set::leaf();
    }
    let mut set = Set::default();
    for (step, inner, shape_of) in parts {
        let mut kid = fields(inner, shape_of);
        // An element of a list exists by itself, whatever fields it has.
        kid.own |= is_list(shape);
        set.add(step, kid);
    }
    set
}

/// What differs: fields that are new or have another value, and fields that are gone.
pub(super) fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> (Set, Set) {
    let (mut changed, mut removed) = (Set::default(), Set::default());
    if old == new {
        return (changed, removed);
    }
    let (Some(before), Some(after)) = (parts(old, shape), parts(new, shape)) else {
        return (fields(new, shape), Set::default());
    };
    if after.is_empty() || before.is_empty() {
        // An empty object is a value of its own.
        changed.join(fields(new, shape));
        removed.join(fields(old, shape).without(&Set::leaf()));
        return (changed, removed);
    }
    for (step, value, inner) in &after {
        match before.iter().find(|(s, ..)| s == step) {
            Some((_, was, _)) => {
                let (c, r) = compare(was, value, *inner);
                changed.add(step.clone(), c);
                removed.add(step.clone(), r);
            }
            None => {
                let mut kid = fields(value, *inner);
                kid.own |= is_list(shape);
                changed.add(step.clone(), kid);
            }
        }
    }
    for (step, was, inner) in before {
        if after.iter().all(|(s, ..)| *s != step) {
            let mut kid = fields(was, inner);
            kid.own |= is_list(shape);
            removed.add(step, kid);
        }
    }
    (changed, removed)
}

/// Merges what is wanted into what is there.
pub(super) fn merge(live: &mut Value, wanted: &Value, shape: Shape<'_>) {
    match (shape, &mut *live, wanted) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                match old.get_mut(key) {
                    Some(was) => merge(was, value, shape.step(key)),
                    None => drop(old.insert(key.clone(), value.clone())),
                }
            }
        }
        (Shape::List(ty, keys), Value::Array(old), Value::Array(new)) => {
            for value in new {
                let step = key_step(value, ty, keys);
                match old.iter_mut().find(|o| key_step(o, ty, keys) == step) {
                    Some(was) => merge(was, value, shape.step("")),
                    None => old.push(value.clone()),
                }
            }
        }
        (Shape::Set, Value::Array(old), Value::Array(new)) => {
            for value in new {
                if !old.contains(value) {
                    old.push(value.clone());
                }
            }
        }
        _ => live.clone_from(wanted),
    }
}

/// Takes away the fields of a set. What leads to them goes as well, with all that only defaults put
/// beside them, unless somebody owns something of it.
pub(super) fn remove(value: &mut Value, set: &Set, kept: &Set, shape: Shape<'_>) {
    let none = Set::default();
    let of = |step: &str| (set.kids.get(step), kept.kids.get(step).unwrap_or(&none));
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            map.retain(|key, inner| {
                let (Some(gone), stay) = of(&format!("f:{key}")) else {
                    return true;
                };
                stays(inner, gone, stay, shape.step(key))
            });
        }
        (Shape::List(ty, keys), Value::Array(list)) => {
            list.retain_mut(|inner| {
                let (Some(gone), stay) = of(&key_step(inner, ty, keys)) else {
                    return true;
                };
                stays(inner, gone, stay, shape.step(""))
            });
        }
        (Shape::Set, Value::Array(list)) => {
            list.retain(|inner| of(&format!("v:{inner}")).0.is_none());
        }
        _ => {}
    }
}

fn stays(value: &mut Value, gone: &Set, kept: &Set, shape: Shape<'_>) -> bool {
    if kept.is_empty() {
        return false;
    }
    remove(value, gone, kept, shape);
    true
}

/// The steps of list elements that are there twice.
pub(super) fn duplicates(value: &Value, shape: Shape<'_>) -> Option<String> {
    let parts = parts(value, shape)?;
    for (i, (step, inner, shape_of)) in parts.iter().enumerate() {
        if parts[..i].iter().any(|(s, ..)| s == step) {
            return Some(step[2..].to_owned());
        }
        if let Some(found) = duplicates(inner, *shape_of) {
            return Some(found);
        }
    }
    None
}
