//! Reads the table. It is part of the program, so a fault in it is a fault of the build: tests parse
//! all of it.

use std::collections::HashMap;

use super::{Field, Merge, Owner, Scalar, Schema, Struct, Type, TypeId};

pub(super) fn parse(text: &'static str) -> Schema {
    let heads = text.lines().filter(|l| !l.starts_with(' '));
    let names: HashMap<_, _> = heads
        .enumerate()
        .map(|(i, n)| (n, TypeId(i as u16)))
        .collect();
    let mut structs: Vec<Struct> = Vec::with_capacity(names.len());
    for line in text.lines() {
        match line.strip_prefix(' ') {
            None => structs.push(Struct {
                name: line,
                fields: Vec::new(),
            }),
            Some(rest) => {
                let of = structs.last_mut().expect("a type before its fields");
                let package = of.name.split_once('.').map_or("", |(p, _)| p);
                of.fields.push(field(rest, package, &names));
            }
        }
    }
    for s in &mut structs {
        s.fields.sort_by_key(|f| f.name);
        s.fields.shrink_to_fit();
    }
    Schema { structs, names }
}

fn field(line: &'static str, package: &str, names: &HashMap<&str, TypeId>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().expect("a name");
    let ty = type_of(words.next().expect("a type"), package, names);
    let (merge, owner) = (Merge::Default, Owner::Default);
    let mut field = Field {
        name,
        ty,
        required: false,
        plain: false,
        merge,
        owner,
        default: None,
        number: Vec::new(),
    };
    for flag in words {
        if let Some(path) = flag.strip_prefix('#') {
            field.number = path
                .split('.')
                .map(|n| n.parse().expect("a number below 256"))
                .collect();
            continue;
        }
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("!", _) => field.required = true,
            ("~", _) => field.plain = true,
            ("merge", "") => field.merge = Merge::Set,
            ("merge", key) => field.merge = Merge::Key(key),
            ("retainKeys", _) => field.merge = Merge::RetainKeys,
            ("atomic", _) => field.owner = Owner::Atomic,
            ("set", _) => field.owner = Owner::Set,
            ("keys", keys) => field.owner = Owner::Keys(keys.split(',').collect()),
            // A reference to a constant: the kind's own defaults know it.
            ("default", json) if !json.starts_with("ref(") => field.default = Some(json),
            ("default", _) => {}
            (other, _) => unreachable!("types.txt: flag {other} of {name}"),
        }
    }
    field
}

fn type_of(text: &str, package: &str, names: &HashMap<&str, TypeId>) -> Type {
    if let Some(inner) = text.strip_prefix("[]") {
        return Type::List(Box::new(type_of(inner, package, names)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Type::Map(Box::new(type_of(inner, package, names)));
    }
    let scalar = match text {
        "string" => Scalar::String,
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "number" => Scalar::Number,
        "bytes" => Scalar::Bytes,
        "quantity" => Scalar::Quantity,
        "intstr" => Scalar::IntStr,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "any" => Scalar::Any,
        own if own.starts_with('.') => {
            return Type::Struct(names[format!("{package}{own}").as_str()]);
        }
        other => return Type::Struct(names[other]),
    };
    Type::Scalar(scalar)
}
