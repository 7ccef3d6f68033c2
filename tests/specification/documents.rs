//! The documents, as data.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};

/// docs/openapi.yaml.
pub const OPENAPI: &str = "openapi.yaml";
/// docs/asyncapi.yaml.
pub const ASYNCAPI: &str = "asyncapi.yaml";

/// What the documents have already and nodes do not serve yet: paths, types of messages, and names of examples.
pub const AWAITED: &[&str] = &[
    "/api/metrics/latest",
    "snapshot",
    "snapshot_follows",
    "last_values",
    "last_values_once_a_second",
    "bad_snapshot",
];

/// A file of this project.
pub fn text(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A document as it is written.
pub fn raw(name: &str) -> Value {
    serde_saphyr::from_str(&text(&format!("docs/{name}")))
        .unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

/// A document with the target of each `$ref` in the place of it.
pub fn whole(name: &str) -> Value {
    Documents::load().inlined(&raw(name), name)
}

/// The targets of all references, in both documents, as `file#/pointer`.
pub fn referenced() -> BTreeSet<String> {
    let documents = Documents::load();
    let mut found = BTreeSet::new();
    for name in [OPENAPI, ASYNCAPI] {
        documents.collect(documents.of(name), name, &mut found);
    }
    found
}

struct Documents {
    openapi: Value,
    asyncapi: Value,
}

impl Documents {
    fn load() -> Self {
        Self { openapi: raw(OPENAPI), asyncapi: raw(ASYNCAPI) }
    }

    fn of(&self, name: &str) -> &Value {
        match name {
            OPENAPI => &self.openapi,
            ASYNCAPI => &self.asyncapi,
            other => panic!("{other} is none of the documents"),
        }
    }

    /// Nothing in these documents contains itself, so this ends.
    fn inlined(&self, value: &Value, file: &str) -> Value {
        match value {
            Value::Object(members) => match members.get("$ref") {
                Some(Value::String(reference)) => {
                    let (file, pointer) = split(reference, file);
                    let target = self.of(file).pointer(pointer);
                    let target =
                        target.unwrap_or_else(|| panic!("docs/{file}: $ref {reference} leads nowhere"));
                    self.inlined(target, file)
                }
                _ => members
                    .iter()
                    .map(|(name, value)| (name.clone(), self.inlined(value, file)))
                    .collect::<Map<_, _>>()
                    .into(),
            },
            Value::Array(values) => values.iter().map(|value| self.inlined(value, file)).collect(),
            other => other.clone(),
        }
    }

    fn collect(&self, value: &Value, file: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let (file, pointer) = split(reference, file);
                    found.insert(format!("{file}#{pointer}"));
                }
                members.values().for_each(|value| self.collect(value, file, found));
            }
            Value::Array(values) => values.iter().for_each(|value| self.collect(value, file, found)),
            _ => {}
        }
    }
}

/// `./other.yaml#/a/b` into file and pointer.
fn split<'a>(reference: &'a str, file: &'a str) -> (&'a str, &'a str) {
    let (path, pointer) = reference.split_once('#').unwrap_or_else(|| panic!("{reference} has no #"));
    (if path.is_empty() { file } else { path.trim_start_matches("./") }, pointer)
}

/// The members of an object, in order.
pub fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// A member that is a text.
pub fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text `{name}` in {value}"))
}

/// The texts of a list.
pub fn texts(value: &Value) -> Vec<&str> {
    let values = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    values.iter().map(|value| value.as_str().unwrap_or_else(|| panic!("{value} is no text"))).collect()
}
