//! The documents, as data.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};

/// docs/openapi.yaml.
pub const OPENAPI: &str = "openapi.yaml";
/// docs/asyncapi.yaml.
pub const ASYNCAPI: &str = "asyncapi.yaml";

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
    let document = raw(name);
    inlined(&document, &document)
}

/// Nothing in these documents contains itself, so this ends.
fn inlined(document: &Value, value: &Value) -> Value {
    match value {
        Value::Object(members) => match members.get("$ref") {
            Some(Value::String(reference)) => {
                let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                inlined(document, target.unwrap_or_else(|| panic!("$ref {reference} leads nowhere")))
            }
            _ => members
                .iter()
                .map(|(name, value)| (name.clone(), inlined(document, value)))
                .collect::<Map<_, _>>()
                .into(),
        },
        Value::Array(values) => values.iter().map(|value| inlined(document, value)).collect(),
        other => other.clone(),
    }
}

/// The targets of all references in a value.
pub fn references(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(members) => match members.get("$ref") {
            Some(Value::String(reference)) => BTreeSet::from([reference.clone()]),
            _ => members.values().flat_map(references).collect(),
        },
        Value::Array(values) => values.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

/// Every schema of a document, those inside others included, with where it is.
pub fn for_each_schema(document: &Value, see: &mut dyn FnMut(&str, &Value)) {
    fn inside(at: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
        see(at, schema);
        for kind in ["oneOf", "anyOf", "allOf"] {
            let parts = schema[kind].as_array().into_iter().flatten().enumerate();
            parts.for_each(|(index, part)| inside(&format!("{at}/{kind}/{index}"), part, see));
        }
        for (name, property) in members(&schema["properties"]) {
            inside(&format!("{at}/properties/{name}"), property, see);
        }
        for kind in ["items", "additionalProperties", "if", "then"] {
            if schema[kind].is_object() {
                inside(&format!("{at}/{kind}"), &schema[kind], see);
            }
        }
    }
    fn outside(at: &str, value: &Value, see: &mut dyn FnMut(&str, &Value)) {
        for (name, value) in members(value) {
            let at = format!("{at}/{name}");
            match name {
                "schema" | "payload" if value.is_object() => inside(&at, value, see),
                // What they hold is data.
                "examples" | "x-refused" => {}
                "schemas" => {
                    members(value).for_each(|(name, schema)| inside(&format!("{at}/{name}"), schema, see))
                }
                _ => outside(&at, value, see),
            }
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            outside(&format!("{at}/{index}"), value, see);
        }
    }
    outside("#", document, see);
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
