//! What the program has is in the documents, and the other way round.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use telecast::ops::paths::PATHS;
use telecast::proto::message::{CloseCode, Format, Reconnect};

use crate::documents::{self, ASYNCAPI, OPENAPI, members, text_of, texts};
use crate::nodes::Stage;

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn schema(file: &str, name: &str) -> Value {
    documents::whole(file)["components"]["schemas"][name].take()
}

/// The texts that an enum's names are, in the order of the source: what follows `=> ` in its `impl`.
fn names_of(source: &str, of: &str) -> Vec<String> {
    let text = documents::text(source);
    let (_, body) =
        text.split_once(&format!("\nimpl {of} {{\n")).unwrap_or_else(|| panic!("{source} has no {of}"));
    let (body, _) = body.split_once("\n}\n").expect("its end");
    let names: Vec<String> = body.lines().filter_map(|line| literal(line.split_once("=> ")?.1)).collect();
    assert!(names.len() > 1, "{source}: the names of {of}: {names:?}");
    names
}

/// The text literal at the beginning of `text`.
fn literal(text: &str) -> Option<String> {
    Some(text.strip_prefix('"')?.split_once('"')?.0.to_owned())
}

/// docs/protocol.md has the same tables for people.
#[test]
fn the_tables_of_the_protocol_have_what_the_program_has_and_nothing_else() {
    let paths = set(PATHS.iter().map(|known| known.path));
    let enumerated = |name: &str| set(texts(&schema(ASYNCAPI, name)["enum"]));
    let types = schema(OPENAPI, "ServerMessage");
    let types = types["oneOf"].as_array().expect("schemas").iter();
    let types = set(types.map(|schema| text_of(&schema["properties"]["type"], "const")));
    let document = documents::whole(OPENAPI);
    let parameters = document["paths"]["/ws"]["get"]["parameters"].as_array().expect("parameters").iter();
    let parameters = set(parameters.map(|parameter| text_of(parameter, "name")));
    let asked = ["subscribe", "replay", "ping"];
    for (heading, head, wanted) in [
        ("# Protocol", "| path |", paths),
        ("### Parameters", "| parameter |", parameters),
        ("### Messages of the server", "| type |", types),
        ("### Messages of the server", "| reason |", enumerated("GapReason")),
        ("### Messages of the client", "| type |", set(asked)),
        ("### Messages of the client", "| code |", enumerated("MessageErrorCode")),
    ] {
        let found: BTreeSet<String> = documents::first_column(heading, head).into_iter().collect();
        assert_eq!(found, wanted, "{heading}, {head}");
    }
}

#[test]
fn every_path_and_method_is_described_and_every_described_one_is_served() {
    let document = documents::whole(OPENAPI);
    let described: BTreeSet<String> = members(&document["paths"])
        .flat_map(|(path, item)| {
            members(item).map(move |(method, _)| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let method = |method| if method == "WebSocket" { "GET" } else { method };
    let served: BTreeSet<String> =
        PATHS.iter().map(|known| format!("{} {}", method(known.method), known.path)).collect();
    assert_eq!(described, served);

    let document = documents::whole(ASYNCAPI);
    let described = members(&document["channels"]).map(|(_, channel)| text_of(channel, "address"));
    let served = PATHS.iter().filter(|known| known.method == "WebSocket").map(|known| known.path);
    assert_eq!(set(described), set(served));
}

#[test]
fn every_close_code_is_described_as_it_is() {
    let document = documents::whole(ASYNCAPI);
    for (name, channel) in members(&document["channels"]) {
        let described = channel["x-close-codes"].as_array().expect("close codes").iter();
        let described: Vec<_> = described
            .map(|row| (row["code"].as_u64(), text_of(row, "meaning"), text_of(row, "reconnect")))
            .collect();
        let known = CloseCode::ALL.iter().map(|code| {
            let reconnect = match code.reconnect() {
                Reconnect::No => "no",
                Reconnect::Resume => "resume",
                Reconnect::BackOff => "back_off",
            };
            (Some(u64::from(code.number())), code.meaning(), reconnect)
        });
        assert_eq!(described, known.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn every_reason_and_code_of_a_message_is_described() {
    let message = "src/proto/message";
    for (name, source) in [
        ("ErrorCode", format!("{message}/mod.rs")),
        ("GapReason", format!("{message}/server.rs")),
        ("GoodbyeReason", format!("{message}/server.rs")),
    ] {
        let described = schema(ASYNCAPI, if name == "ErrorCode" { "MessageErrorCode" } else { name });
        assert_eq!(set(texts(&described["enum"])), names_of(&source, name).into_iter().collect(), "{name}");
    }
    assert_eq!(set(texts(&schema(ASYNCAPI, "Format")["enum"])), set(Format::NAMES));
}

#[test]
fn every_type_of_message_is_described() {
    let described = schema(OPENAPI, "ServerMessage");
    let types = described["oneOf"].as_array().expect("schemas").iter();
    let types = types.map(|schema| text_of(&schema["properties"]["type"], "const"));
    let source = documents::text("src/proto/message/server.rs");
    let written = source.split("Object::open(out, ").skip(1).filter_map(literal).collect();
    assert_eq!(set(types), written);

    let source = documents::text("src/proto/message/client.rs");
    let (_, known) = source.split_once("match known {").expect("the types of clients' messages");
    let (known, _) = known.split_once("other =>").expect("their end");
    let read: Vec<String> =
        known.lines().filter(|line| line.ends_with("=> {")).filter_map(|line| literal(line.trim())).collect();
    let operations = &documents::whole(ASYNCAPI)["operations"];
    let described = members(operations).filter(|(_, operation)| !operation["reply"].is_null());
    let described: BTreeSet<String> = described
        .flat_map(|(_, operation)| operation["messages"].as_array().expect("messages").clone())
        .map(|message| text_of(&message["payload"]["properties"]["type"], "const").to_owned())
        .collect();
    assert_eq!(described, read.into_iter().collect());
}

/// Errors over HTTP are made in many places, with their code as a literal.
#[test]
fn every_code_of_an_error_over_http_is_described_and_explained() {
    let mut written = BTreeSet::new();
    collect_codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut written);
    written.extend(names_of("src/proto/message/mod.rs", "ErrorCode"));
    let described = schema(OPENAPI, "ErrorCode");
    let described = set(texts(&described["enum"]));
    assert_eq!(described, written);
    let explained = documents::text("docs/protocol.md") + &documents::text("docs/collectors.md");
    for code in described {
        assert!(
            explained.contains(&format!("`{code}`")),
            "neither docs/protocol.md nor docs/collectors.md has {code}"
        );
    }
}

fn collect_codes(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect_codes(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for makes in [
            "ApiError::new(",
            "bad_request(",
            "unavailable(",
            "const BAD_HANDSHAKE: &str = ",
            "const WEBSOCKET_REQUIRED: &str = ",
        ] {
            for rest in text.split(makes).skip(1) {
                // The code is the first literal, unless a variable has it; a message has spaces.
                let call = rest.split([';', '{']).next().unwrap_or_default();
                let literal = call.split_once('"').and_then(|(_, rest)| rest.split_once('"'));
                found.extend(literal.map(|(code, _)| code.to_owned()).filter(|code| is_code(code)));
            }
        }
    }
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// A request with an unknown parameter is told which there are.
#[tokio::test]
async fn the_parameters_of_clients_are_those_that_the_server_names() {
    let document = documents::whole(OPENAPI);
    let stage = Stage::when(None).await;
    let clients = PATHS.iter().filter(|known| known.audience == telecast::ops::paths::Audience::Clients);
    // A file is the same whatever is asked for.
    for known in clients.filter(|known| known.path != "/telecast.js") {
        let operation = &document["paths"][known.path]["get"];
        let parameters = operation["parameters"].as_array().expect("parameters").iter();
        let described =
            parameters.filter(|parameter| parameter["in"] == "query").map(|one| text_of(one, "name"));
        let request =
            reqwest::Client::new().get(format!("http://{}{}?nonsense=1", stage.address(), known.path));
        let request = if known.method == "WebSocket" {
            crate::requests::HANDSHAKE
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value))
        } else {
            request
        };
        let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        let message = text_of(&answer["error"], "message");
        let (_, named) =
            message.split_once("there are ").unwrap_or_else(|| panic!("{}: {message}", known.path));
        assert_eq!(set(described), set(named.split('`').skip(1).step_by(2)), "{}", known.path);
    }
    let channels = &documents::whole(ASYNCAPI)["channels"];
    for channel in ["clients", "clientsAlias"] {
        let described =
            members(&channels[channel]["bindings"]["ws"]["query"]["properties"]).map(|(name, _)| name);
        let parameters = document["paths"]["/ws"]["get"]["parameters"].as_array().expect("parameters").iter();
        assert_eq!(set(described), set(parameters.map(|parameter| text_of(parameter, "name"))), "{channel}");
    }
}
