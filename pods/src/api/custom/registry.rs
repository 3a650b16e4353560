//! The kinds of a store's definitions, and what others want to know of these without unpacking them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};

use super::of_definition;
use crate::api::kinds::CUSTOM_RESOURCE_DEFINITION as DEFINITION;
use crate::api::resource::Res;
use crate::store::{Object, Selector, Store};

/// See the module.
#[derive(Default)]
pub struct Registry(RwLock<State>);

#[derive(Default)]
struct State {
    /// The version of the definitions that this is made of.
    newest: Option<u64>,
    kinds: Arc<[Res]>,
    known: BTreeMap<String, Known>,
}

/// One definition.
struct Known {
    version: u64,
    outline: Arc<Value>,
    kinds: &'static [Res],
}

impl Known {
    fn of(definition: &Object) -> Self {
        let value = definition.value();
        Self {
            version: definition.resource_version(),
            outline: Arc::new(outline(value)),
            kinds: of_definition(value),
        }
    }
}

/// A definition without its schemas.
fn outline(definition: &Value) -> Value {
    let part = |of: &Value, fields: &[&str]| -> Value {
        let there = fields.iter().filter(|f| !of[**f].is_null());
        there.map(|f| ((*f).to_owned(), of[*f].clone())).collect()
    };
    let meta = ["name", "uid", "creationTimestamp", "deletionTimestamp"];
    json!({
        "metadata": part(&definition["metadata"], &meta),
        "spec": part(&definition["spec"], &["group", "names", "scope"]),
        "status": definition["status"],
    })
}

impl Registry {
    /// Every custom kind that is served now.
    pub fn all(&self, store: &Store) -> Arc<[Res]> {
        self.read(store, |state| state.kinds.clone())
    }

    /// Every definition without its schemas.
    pub fn outlines(&self, store: &Store) -> Vec<Arc<Value>> {
        self.read(store, |state| {
            let known = state.known.values();
            known.map(|k| k.outline.clone()).collect()
        })
    }

    fn read<T>(&self, store: &Store, give: impl Fn(&State) -> T) -> T {
        let newest = store.newest(&DEFINITION.qualified());
        {
            let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if state.newest == Some(newest) {
                return give(&state);
            }
        }
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let list = store.list(&DEFINITION.qualified(), "", &Selector::all());
        let mut before = std::mem::take(&mut state.known);
        for definition in &list.items {
            let known = before.remove(definition.name());
            let known = known.filter(|k| k.version == definition.resource_version());
            // A handle of its own: what is unpacked goes with it.
            let known = known.unwrap_or_else(|| Known::of(&definition.slim()));
            state.known.insert(definition.name().to_owned(), known);
        }
        state.kinds = state
            .known
            .values()
            .flat_map(|k| k.kinds)
            .copied()
            .collect();
        state.newest = Some(newest);
        give(&state)
    }
}
