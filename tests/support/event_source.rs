//! An `EventSource` that keeps a [`Ledger`]: it reads as browsers do, and comes back with nothing but its last event's id.

use std::net::SocketAddr;

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::event_stream::EventStream;
use super::ledger::Ledger;
use super::telecast::Answer;

/// See the module.
pub struct EventSource {
    response: reqwest::Response,
    parameters: String,
    /// What a browser would know of the stream.
    pub stream: EventStream,
    /// Everything it has got.
    pub ledger: Ledger,
    /// Received, and not looked at yet.
    events: std::collections::VecDeque<String>,
}

impl EventSource {
    /// Connects to `/sse` with these parameters, and takes the welcome.
    pub async fn connect(address: SocketAddr, parameters: &str) -> Self {
        match Self::attempt(address, parameters, "").await {
            Ok(source) => source,
            Err(answer) => panic!("refused: {} {}", answer.status, answer.json),
        }
    }

    /// The same with a `Last-Event-ID`, and the answer if it is no stream of events.
    pub async fn attempt(address: SocketAddr, parameters: &str, last_id: &str) -> Result<Self, Answer> {
        let response = open(address, parameters, last_id).await;
        if response.status().as_u16() != 200 {
            return Err(Answer::read(response).await);
        }
        let mut source = Self {
            response,
            parameters: parameters.to_owned(),
            stream: EventStream::default(),
            ledger: Ledger::default(),
            events: std::collections::VecDeque::new(),
        };
        source.until("a welcome", |ledger| ledger.count("welcome") == 1).await;
        Ok(source)
    }

    /// The head of its response.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// What a browser does when the connection has ended: the same URL, and the last id.
    pub async fn come_back(&mut self, address: SocketAddr) {
        let id = self.stream.last_id.clone();
        let response = open(address, &self.parameters, &id).await;
        assert_eq!(response.status().as_u16(), 200);
        self.response = response;
        self.stream.forget_the_unfinished();
        let welcomes = self.ledger.count("welcome");
        self.until("a welcome", |ledger| ledger.count("welcome") > welcomes).await;
        assert_eq!(self.ledger.last("welcome")["offset"], *id, "a resume begins where the client was");
    }

    /// The next message; `None` at the end of the response. Null stands for line protocol.
    pub async fn next(&mut self) -> Option<Value> {
        self.read().await.expect("a response that goes on or ends")
    }

    /// The same; `None` when the connection breaks, too.
    pub async fn try_next(&mut self) -> Option<Value> {
        self.read().await.ok().flatten()
    }

    async fn read(&mut self) -> reqwest::Result<Option<Value>> {
        loop {
            if let Some(data) = self.events.pop_front() {
                return Ok(Some(self.ledger.take(&data)));
            }
            let Some(bytes) = self.response.chunk().await? else { return Ok(None) };
            for event in self.stream.take(&bytes) {
                self.events.push_back(event.data);
            }
        }
    }

    /// Takes messages until the ledger is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Ledger) -> bool) {
        super::patiently(what, async {
            while !wanted(&self.ledger) {
                assert!(self.next().await.is_some(), "{what}: the stream has ended");
            }
        })
        .await;
    }

    /// Takes messages until the response ends.
    pub async fn ended(&mut self) {
        super::patiently("the end of the stream", async { while self.next().await.is_some() {} }).await;
    }
}

async fn open(address: SocketAddr, parameters: &str, last_id: &str) -> reqwest::Response {
    let mut request = reqwest::Client::new()
        .get(format!("http://{address}/sse?{parameters}"))
        .header("accept", "text/event-stream");
    if !last_id.is_empty() {
        request = request.header("last-event-id", last_id);
    }
    super::patiently("the head of a stream", request.send()).await.expect("a response")
}
