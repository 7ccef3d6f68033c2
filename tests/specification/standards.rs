//! The documents are what they claim to be: OpenAPI 3.1 and AsyncAPI 3.0, with schemas that mean something, and examples that follow
//! them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::documents::{self, ASYNCAPI, OPENAPI, members};

/// Installed by scripts/setup-schemas.sh; the number is that of the package it is from.
const OPENAPI_SCHEMA: &str = ".tools/schemas/openapi-3.1-0.9.0.json";
const ASYNCAPI_SCHEMA: &str = ".tools/schemas/asyncapi-3.0-6.11.1.json";

/// Panics with everything that is wrong with `instance`.
pub fn holds_to(schema: &Value, instance: &Value, what: &str) {
    check(schema, instance).unwrap_or_else(|errors| panic!("{what} is not as its schema says: {errors}"));
}

/// Says everything that is wrong with `instance`.
pub fn check(schema: &Value, instance: &Value) -> Result<(), String> {
    let validator =
        jsonschema::validator_for(schema).unwrap_or_else(|error| panic!("{error} in the schema {schema}"));
    let errors: Vec<String> =
        validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(format!("{}\nin {instance}", errors.join("\n"))) }
}

fn standard(path: &str) -> Value {
    assert!(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(),
        "{path} does not exist: run `make tools`"
    );
    serde_json::from_str(&documents::text(path)).expect("JSON")
}

#[test]
fn the_description_of_http_is_openapi_3_1() {
    holds_to(&standard(OPENAPI_SCHEMA), &documents::raw(OPENAPI), "docs/openapi.yaml");
}

#[test]
fn the_description_of_websockets_is_asyncapi_3_0() {
    holds_to(&standard(ASYNCAPI_SCHEMA), &documents::raw(ASYNCAPI), "docs/asyncapi.yaml");
}

/// Generators and viewers get one file.
#[test]
fn each_document_stands_alone() {
    for file in [OPENAPI, ASYNCAPI] {
        let elsewhere: Vec<String> = documents::references(&documents::raw(file))
            .into_iter()
            .filter(|to| !to.starts_with('#'))
            .collect();
        assert!(elsewhere.is_empty(), "docs/{file} refers to {elsewhere:?}");
    }
}

#[test]
fn what_both_documents_have_is_the_same_in_both() {
    let (openapi, asyncapi) = (documents::raw(OPENAPI), documents::raw(ASYNCAPI));
    let mut shared = 0;
    for (name, schema) in members(&openapi["components"]["schemas"]) {
        let other = &asyncapi["components"]["schemas"][name];
        if !other.is_null() {
            assert_eq!(schema, other, "the schema {name}");
            shared += 1;
        }
    }
    assert!(shared > 20, "only {shared} schemas are in both");
}

/// Generators make functions of them.
#[test]
fn every_operation_has_a_name_of_its_own_that_says_what_it_does() {
    let document = documents::raw(OPENAPI);
    let mut names = BTreeSet::new();
    for (path, item) in members(&document["paths"]) {
        for (method, operation) in members(item) {
            let name =
                operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
            let is_name =
                name.chars().all(|c| c.is_ascii_alphanumeric()) && name.starts_with(char::is_lowercase);
            assert!(is_name, "{name} is no name of a function");
            assert!(names.insert(name.to_owned()), "{name} is there twice");
            for told in ["summary", "description"] {
                assert!(operation[told].is_string(), "{name} has no {told}");
            }
        }
    }
}

/// JSON Schema ignores what it does not know: a keyword of another draft, or one that does not go with the type, says nothing.
#[test]
fn every_keyword_of_a_schema_means_something() {
    const ANY: &[&str] =
        &["type", "enum", "const", "description", "default", "$ref", "oneOf", "anyOf", "allOf", "if", "then"];
    const OF_TYPES: &[(&str, &[&str])] = &[
        ("string", &["pattern", "minLength", "maxLength"]),
        ("integer", &["minimum", "maximum"]),
        ("number", &["minimum", "maximum"]),
        ("array", &["items", "minItems", "maxItems"]),
        ("object", &["properties", "required", "additionalProperties", "minProperties"]),
    ];
    for file in [OPENAPI, ASYNCAPI] {
        documents::for_each_schema(&documents::raw(file), &mut |at, schema| {
            let types = match &schema["type"] {
                Value::String(one) => vec![one.as_str()],
                Value::Array(_) => documents::texts(&schema["type"]),
                // Parts of a condition are about what the schema around them has said already.
                _ if at.ends_with("/if") || at.ends_with("/then") => vec!["object"],
                _ => vec![],
            };
            let fitting =
                OF_TYPES.iter().filter(|(of, _)| types.contains(of)).flat_map(|(_, keywords)| *keywords);
            let known: BTreeSet<&str> = ANY.iter().chain(fitting).copied().collect();
            for (keyword, _) in members(schema) {
                let is_discriminator = keyword == "discriminator" && schema["oneOf"].is_array();
                assert!(
                    known.contains(keyword) || is_discriminator,
                    "docs/{file}{at}: {keyword} means nothing there"
                );
            }
        });
    }
}

/// What a refused request has in it stands elsewhere: generators, viewers and mock servers take examples for what may be sent.
#[test]
fn every_example_of_a_request_follows_its_schema() {
    let document = documents::whole(OPENAPI);
    for (path, item) in members(&document["paths"]) {
        for operation in item.as_object().expect("operations").values() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let contents = members(&operation["requestBody"]["content"]).map(|(_, content)| content);
            for place in parameters.chain(contents) {
                for (name, example) in members(&place["examples"]) {
                    holds_to(
                        &place["schema"],
                        &example["value"],
                        &format!("{path}: {}, {name}", place["name"]),
                    );
                }
            }
        }
    }
}

#[test]
fn every_schema_is_one_and_every_component_is_used() {
    // What opens an operation is named there, not referred to.
    let openapi = documents::whole(OPENAPI);
    let operations =
        members(&openapi["paths"]).flat_map(|(_, item)| item.as_object().expect("operations").values());
    let opens = operations
        .flat_map(|operation| operation["security"].as_array().into_iter().flatten().flat_map(members));
    let opens: BTreeSet<String> =
        opens.map(|(name, _)| format!("#/components/securitySchemes/{name}")).collect();
    for file in [OPENAPI, ASYNCAPI] {
        // This resolves every reference, too.
        let document = documents::whole(file);
        let mut used = documents::references(&documents::raw(file));
        used.extend(opens.iter().cloned());
        for (name, schema) in members(&document["components"]["schemas"]) {
            jsonschema::meta::validate(schema).unwrap_or_else(|error| panic!("docs/{file}: {name}: {error}"));
        }
        for (kind, components) in members(&document["components"]) {
            for (name, _) in members(components) {
                let place = format!("#/components/{kind}/{name}");
                assert!(used.contains(&place), "nothing refers to docs/{file}{place}");
            }
        }
    }
}

#[test]
fn every_example_of_a_message_follows_its_schema() {
    let document = documents::whole(ASYNCAPI);
    for (name, message) in members(&document["components"]["messages"]) {
        let examples = message["examples"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(!examples.is_empty(), "the message {name} has no example");
        for example in examples {
            holds_to(&message["payload"], &example["payload"], &format!("{name}, {}", example["name"]));
        }
    }
}

#[test]
fn every_example_of_an_answer_follows_its_schema() {
    let document = documents::whole(OPENAPI);
    for (path, item) in members(&document["paths"]) {
        for operation in item.as_object().expect("operations").values() {
            for (status, answer) in members(&operation["responses"]) {
                for (kind, content) in members(&answer["content"]) {
                    for (name, example) in members(&content["examples"]) {
                        holds_to(
                            &content["schema"],
                            &example["value"],
                            &format!("{path} {status} {kind} {name}"),
                        );
                    }
                }
            }
        }
    }
}
