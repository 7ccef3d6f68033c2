//! The documents are what they claim to be: OpenAPI 3.1 and AsyncAPI 3.0, with schemas that mean something, and examples that follow
//! them.

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

#[test]
fn every_schema_is_one_and_every_component_is_used() {
    let mut used = documents::referenced();
    // What opens an operation is named there, not referred to.
    let openapi = documents::whole(OPENAPI);
    for operation in
        members(&openapi["paths"]).flat_map(|(_, item)| item.as_object().expect("operations").values())
    {
        let opens = operation["security"].as_array().into_iter().flatten().flat_map(members);
        used.extend(opens.map(|(name, _)| format!("{OPENAPI}#/components/securitySchemes/{name}")));
    }
    for file in [OPENAPI, ASYNCAPI] {
        // This resolves every reference, too.
        let document = documents::whole(file);
        for (name, schema) in members(&document["components"]["schemas"]) {
            jsonschema::meta::validate(schema).unwrap_or_else(|error| panic!("docs/{file}: {name}: {error}"));
        }
        for (kind, components) in members(&document["components"]) {
            for (name, _) in members(components) {
                let place = format!("{file}#/components/{kind}/{name}");
                assert!(used.contains(&place), "nothing refers to docs/{place}");
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
