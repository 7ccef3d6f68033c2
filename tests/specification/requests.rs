//! The examples of docs/openapi.yaml, sent to nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::alike::{self, Compare};
use crate::documents::{self, OPENAPI, members, text_of};
use crate::nodes::{ADMIN_TOKEN, Stage};
use crate::standards::check;

/// By then an answer is as shown, or another one.
const ENOUGH: Duration = Duration::from_secs(10);
/// Between two requests of an example whose answer is not as shown yet: what was written may still be on its way.
const AGAIN: Duration = Duration::from_millis(50);

/// Header lines that ask for a WebSocket.
pub const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// One example: a request, and the answer to it.
struct Case {
    name: String,
    path: String,
    method: Method,
    /// The state of the node.
    when: Option<String>,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Option<String>,
    /// Pads the target with a parameter to so many bytes.
    target_bytes: Option<usize>,
    status: u16,
    /// How the answer is described: headers, and content by its type.
    described: Value,
    /// The type of the answer, and what it shows.
    answer: Option<(String, Value)>,
}

/// The examples of one operation.
fn cases(path: &str, method: &str, operation: &Value) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut answered = BTreeSet::new();
    for (status, described) in members(&operation["responses"]) {
        for (kind, content) in members(&described["content"]) {
            for (name, example) in members(&content["examples"]) {
                answered.insert(name.to_owned());
                let method = example["x-method"].as_str().unwrap_or(method);
                let mut case = Case::new(path, method, operation, name, status, described);
                case.when = example["x-when"].as_str().map(str::to_owned);
                case.target_bytes = example["x-target-bytes"].as_u64().map(|bytes| bytes as usize);
                let headers = members(&example["x-headers"]);
                case.headers.extend(
                    headers
                        .map(|(name, _)| (name.to_owned(), text_of(&example["x-headers"], name).to_owned())),
                );
                case.answer = Some((kind.to_owned(), example["value"].clone()));
                cases.push(case);
            }
        }
    }
    // An answer without a body has no example: whatever is asked and has no other answer gets it.
    let empty = members(&operation["responses"])
        .find(|(status, answer)| *status < "300" && answer["content"].is_null());
    if let Some((status, described)) = empty {
        let asked = members(&operation["requestBody"]["content"])
            .flat_map(|(_, content)| members(&content["examples"]));
        let mut names: Vec<&str> =
            asked.map(|(name, _)| name).filter(|name| !answered.contains(*name)).collect();
        if operation["requestBody"].is_null() {
            names.push("without_parameters");
        }
        cases.extend(
            names.into_iter().map(|name| Case::new(path, method, operation, name, status, described)),
        );
    }
    cases
}

impl Case {
    fn new(path: &str, method: &str, operation: &Value, name: &str, status: &str, described: &Value) -> Self {
        let mut case = Self {
            name: name.to_owned(),
            path: path.to_owned(),
            method: method.to_uppercase().parse().expect("a method"),
            when: None,
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            target_bytes: None,
            status: status.parse().expect("a status"),
            described: described.clone(),
            answer: None,
        };
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let value = sent(parameter, name);
            let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            for value in values.into_iter().filter(|value| !value.is_null()) {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let pair = (text_of(parameter, "name").to_owned(), text);
                if parameter["in"] == "query" { case.query.push(pair) } else { case.headers.push(pair) }
            }
        }
        if case.method != Method::GET {
            case.take_body(&operation["requestBody"]["content"]);
        }
        if operation["security"].is_array() && case.status != 401 {
            case.headers.push(("authorization".to_owned(), format!("Bearer {ADMIN_TOKEN}")));
        }
        // A path of WebSockets is asked for one, except where the answer is that nobody did.
        if !operation["responses"]["101"].is_null() && case.status != 426 {
            case.headers.extend(HANDSHAKE.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        case
    }

    fn take_body(&mut self, content: &Value) {
        for (kind, content) in members(content) {
            let value = sent(content, &self.name);
            if value.is_null() {
                continue;
            }
            self.body = Some(match value["bytes"].as_u64() {
                Some(bytes) => "x".repeat(bytes as usize),
                None => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            });
            self.headers.push(("content-type".to_owned(), kind.to_owned()));
        }
    }

    /// Sends the request until the answer is as shown, or says what came instead.
    async fn run(&self, stage: &Stage) -> Result<(), String> {
        let deadline = Instant::now() + ENOUGH;
        loop {
            let difference = match timeout_at(deadline, self.attempt(stage)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(difference)) => difference,
                Err(_) => "no such answer in time".to_owned(),
            };
            // What was refused stays refused.
            if self.status == 400 || Instant::now() + AGAIN > deadline {
                return Err(format!("{} {}, example {}: {difference}", self.method, self.path, self.name));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn attempt(&self, stage: &Stage) -> Result<(), String> {
        if let Some(bytes) = self.target_bytes {
            return self.attempt_with_long_target(stage, bytes).await;
        }
        let mut url =
            reqwest::Url::parse(&format!("http://{}{}", stage.address(), self.path)).expect("a URL");
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        let mut request = reqwest::Client::new().request(self.method.clone(), url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let mut answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        if status != self.status {
            return Err(format!(
                "{status} instead of {}: {}",
                self.status,
                answer.text().await.unwrap_or_default()
            ));
        }
        self.check_headers(&answer)?;
        let Some((kind, example)) = &self.answer else { return Ok(()) };
        let is_stream = kind == "text/event-stream";
        if is_stream || kind == "text/plain" {
            let example = example.as_str().expect("a text");
            return read_lines(&mut answer, example, is_stream).await;
        }
        let text = answer.text().await.expect("a body");
        let json: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        check(&self.described["content"][kind]["schema"], &json)?;
        alike::compare(Compare::Values, example, &json)
    }

    /// The library refuses to send targets that servers refuse to read.
    async fn attempt_with_long_target(&self, stage: &Stage, bytes: usize) -> Result<(), String> {
        let mut socket = TcpStream::connect(stage.address()).await.expect("a connection");
        let target = format!("{}?{}", self.path, "x".repeat(bytes));
        let head = format!("{} {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.method, stage.address());
        socket.write_all(head.as_bytes()).await.expect("a head that is read");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer}"))?;
        if !head.starts_with(&format!("HTTP/1.1 {}", self.status)) {
            return Err(format!("{answer} instead of {}", self.status));
        }
        let (_, example) = self.answer.as_ref().expect("an example of the answer");
        alike::compare(Compare::Values, example, &serde_json::from_str(body).expect("JSON"))
    }

    fn check_headers(&self, answer: &Response) -> Result<(), String> {
        for (name, header) in members(&self.described["headers"]) {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            let Some(value) = value else {
                if header["required"] == true {
                    return Err(format!("the header {name} is missing"));
                }
                continue;
            };
            check(&header["schema"], &Value::from(value))?;
        }
        let Some((kind, _)) = &self.answer else { return Ok(()) };
        let found = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
        if found.split(';').next() == Some(kind) { Ok(()) } else { Err(format!("{found} instead of {kind}")) }
    }
}

/// What the request of this example has in a parameter or as a body.
fn sent<'a>(place: &'a Value, name: &str) -> &'a Value {
    let accepted = &place["examples"][name]["value"];
    if accepted.is_null() { &place["x-refused"][name] } else { accepted }
}

/// Reads until the example's lines have come; a stream has no other end.
async fn read_lines(answer: &mut Response, example: &str, is_stream: bool) -> Result<(), String> {
    let mut bytes = Vec::new();
    loop {
        let chunk = answer.chunk().await.expect("a body");
        let has_ended = chunk.is_none();
        bytes.extend_from_slice(&chunk.unwrap_or_default());
        let text = String::from_utf8_lossy(&bytes);
        match alike::holds_lines(example, &text) {
            true if is_stream || has_ended => return Ok(()),
            false if has_ended => return Err(format!("{text}\ninstead of\n{example}")),
            _ => {}
        }
    }
}

fn all_cases() -> Vec<Case> {
    let document = documents::whole(OPENAPI);
    let mut all = Vec::new();
    for (path, item) in members(&document["paths"]) {
        for (method, operation) in members(item) {
            all.extend(cases(path, method, operation));
        }
    }
    all
}

#[tokio::test]
async fn each_request_of_an_example_gets_the_answer_of_the_example() {
    let mut by_state: BTreeMap<Option<String>, Vec<Case>> = BTreeMap::new();
    for case in all_cases() {
        by_state.entry(case.when.clone()).or_default().push(case);
    }
    let sent: usize = by_state.values().map(Vec::len).sum();
    let differences = join_all(by_state.iter().map(async |(state, cases)| {
        let stage = Stage::when(state.as_deref()).await;
        let mut differences = Vec::new();
        for case in cases {
            differences.extend(case.run(&stage).await.err());
        }
        differences
    }))
    .await
    .concat();
    assert!(differences.is_empty(), "docs/openapi.yaml says otherwise:\n{}", differences.join("\n"));
    assert!(sent > 75, "only {sent} examples");
}

#[test]
fn every_example_of_a_parameter_or_body_belongs_to_an_answer() {
    let document = documents::whole(OPENAPI);
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, item) in members(&document["paths"]) {
        for (method, operation) in members(item) {
            let names: BTreeSet<String> =
                cases(path, method, operation).into_iter().map(|case| case.name).collect();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let place = format!("{} {}", parameter["in"], parameter["name"]);
                used.entry(place.clone()).or_default().extend(names.iter().cloned());
                let examples = ["examples", "x-refused"]
                    .map(|kind| members(&parameter[kind]).map(|(name, _)| name.to_owned()));
                let examples = examples.into_iter().flatten();
                known.entry(place).or_default().extend(examples);
            }
        }
    }
    for (parameter, examples) in known {
        let idle: Vec<_> = examples.difference(&used[&parameter]).collect();
        assert!(idle.is_empty(), "no answer goes with the examples {idle:?} of {parameter}");
    }
}
