//! A client that asks again and again, with nothing but the last `next`, and keeps a [`Ledger`].

use std::net::SocketAddr;

use serde_json::Value;

use super::ledger::Ledger;
use super::telecast::Answer;

/// See the module.
pub struct Poller {
    client: reqwest::Client,
    address: SocketAddr,
    parameters: String,
    /// Where the next poll goes on; nowhere yet, if that is empty.
    pub next: String,
    /// Everything it has got.
    pub ledger: Ledger,
}

impl Poller {
    /// A client that has not asked yet. `parameters` are all but `from`.
    pub fn new(address: SocketAddr, parameters: &str) -> Self {
        Self {
            client: reqwest::Client::new(),
            address,
            parameters: parameters.to_owned(),
            next: String::new(),
            ledger: Ledger::default(),
        }
    }

    /// Goes on at another node.
    pub fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
    }

    /// Begins at this place.
    pub fn from(mut self, from: &str) -> Self {
        from.clone_into(&mut self.next);
        self
    }

    /// Asks once, and takes what comes. Returns how many messages that were.
    pub async fn poll(&mut self) -> usize {
        let answer = self.try_poll().await;
        assert_eq!(answer.status, 200, "{}", answer.json);
        let messages = answer.json["messages"].as_array().expect("messages").clone();
        messages.iter().for_each(|message| drop(self.ledger.take(&message.to_string())));
        self.next = answer.json["next"].as_str().expect("a place").to_owned();
        assert_eq!(answer.headers["x-next-offset"], *self.next, "the same in header and body");
        if messages.is_empty() {
            self.ledger.take(&serde_json::json!({"type": "heartbeat", "offset": self.next}).to_string());
        }
        messages.len()
    }

    /// Asks once, whatever the answer is.
    pub async fn try_poll(&self) -> Answer {
        let from = if self.next.is_empty() { String::new() } else { format!("from={}", self.next) };
        let url = format!("http://{}/api/metrics/poll?{from}&{}", self.address, self.parameters);
        let sent = super::patiently("the head of an answer", self.client.get(url).send()).await;
        Answer::read(sent.expect("an answer")).await
    }

    /// Asks until the ledger is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Ledger) -> bool) {
        super::patiently(what, async {
            while !wanted(&self.ledger) {
                self.poll().await;
            }
        })
        .await;
    }
}

/// Whether it is JSON of this shape at all.
pub fn messages(answer: &Answer) -> &[Value] {
    answer.json["messages"].as_array().expect("messages")
}
