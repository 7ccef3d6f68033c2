//! The documents, as data.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};
use telecast::ops::paths::PATHS;

/// docs/openapi.yaml.
pub const OPENAPI: &str = "openapi.yaml";
/// docs/asyncapi.yaml.
pub const ASYNCAPI: &str = "asyncapi.yaml";

/// The last values over HTTP.
pub const LATEST: &str = "/api/metrics/latest";

/// Whether the documents have this path already, and nodes do not serve it yet.
pub fn is_awaited(path: &str) -> bool {
    path == LATEST && !PATHS.iter().any(|known| known.path == path)
}

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

/// The words in backquotes in the first column of a table: the first one below a heading of docs/protocol.md that begins with
/// `head`.
pub fn first_column(heading: &str, head: &str) -> Vec<String> {
    let protocol = format!("\n{}", text("docs/protocol.md"));
    let (_, section) = protocol
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("docs/protocol.md: {heading}"));
    let (_, table) = section.split_once(&format!("\n{head}")).unwrap_or_else(|| panic!("{heading}: {head}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap_or_default());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
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
