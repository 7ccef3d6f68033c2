//! A WebSocket client that keeps a [`Ledger`], and goes on elsewhere with its last offset.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::ledger::Ledger;

/// See the module.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Parameters besides `from`.
    parameters: String,
    /// Everything it has got.
    pub ledger: Ledger,
}

/// What comes next from a server.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// A message; null when it was in line protocol.
    Message(Value),
    /// A close frame.
    Closed { code: u16, reason: String },
    /// The connection ended without one.
    Lost,
}

/// A handshake that was answered with something else.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub json: Value,
}

impl Client {
    /// Connects to `/ws` with these parameters, and takes the welcome.
    pub async fn connect(address: SocketAddr, parameters: &str) -> Self {
        match Self::attempt(address, "/ws", parameters).await {
            Ok(client) => client,
            Err(refusal) => panic!("refused: {refusal:?}"),
        }
    }

    /// The same on any path, and the answer if it is none of ours.
    pub async fn attempt(address: SocketAddr, path: &str, parameters: &str) -> Result<Self, Refusal> {
        let socket = match open(address, path, parameters).await {
            Ok(socket) => socket,
            Err(Error::Http(answer)) => return Err(Refusal::read(*answer)),
            Err(error) => panic!("no handshake: {error}"),
        };
        let stays = parameters.split('&').filter(|parameter| !parameter.starts_with("from="));
        let parameters = stays.collect::<Vec<_>>().join("&");
        let mut client = Self { socket, parameters, ledger: Ledger::default() };
        client.welcome().await;
        Ok(client)
    }

    /// Leaves wherever it is and goes on at `address` with its last offset. False when nobody answers there.
    pub async fn try_resume(&mut self, address: SocketAddr) -> bool {
        let offset = self.ledger.offset.clone().expect("an offset: every welcome has one");
        let parameters = format!("from={offset}&{}", self.parameters);
        let Ok(socket) = open(address, "/ws", &parameters).await else { return false };
        self.socket = socket;
        match super::patiently("a welcome", self.next()).await {
            Event::Message(message) => {
                assert_eq!(message["type"], "welcome");
                assert_eq!(message["offset"], offset.token(), "a resume begins where the client was");
                true
            }
            // A server that dies in between.
            Event::Closed { .. } | Event::Lost => false,
        }
    }

    /// The same where somebody must answer.
    pub async fn resume(&mut self, address: SocketAddr) {
        assert!(self.try_resume(address).await, "{address} does not answer");
    }

    /// The next message, or the end. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Event::Message(self.ledger.take(&text)),
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    return Event::Closed { code, reason };
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("servers send text, this is {other:?}"),
                Some(Err(_)) | None => return Event::Lost,
            }
        }
    }

    /// Takes messages until the ledger is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Ledger) -> bool) {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        while !wanted(&self.ledger) {
            let Ok(event) = tokio::time::timeout_at(deadline, self.next()).await else {
                let Ledger { data, others, .. } = &self.ledger;
                panic!("{what}: not in time; {} messages of data, others: {others:?}", data.len());
            };
            if !matches!(event, Event::Message(_)) {
                panic!("{what}: the connection ended: {event:?}");
            }
        }
    }

    /// Takes messages until `collector` has sent all of `numbers`, then holds them to come once and in order, with every
    /// measurement.
    pub async fn all_of(&mut self, collector: &super::collector::Collector) {
        let (id, flushed) = (collector.id(), collector.flushed());
        for measurement in super::collector::MEASUREMENTS {
            let enough = |ledger: &Ledger| ledger.numbers(id, measurement).len() >= flushed.len();
            self.until(&format!("all of {id} {measurement}"), enough).await;
        }
        self.ledger_is(id, &flushed);
    }

    /// Every measurement of a collector came with exactly these numbers in this order.
    pub fn ledger_is(&self, collector: &str, numbers: &[i64]) {
        for measurement in super::collector::MEASUREMENTS {
            self.channel_is(collector, measurement, numbers);
        }
    }

    /// One channel came with exactly these numbers in this order.
    pub fn channel_is(&self, collector: &str, measurement: &str, numbers: &[i64]) {
        let came = self.ledger.numbers(collector, measurement);
        let same = came.iter().zip(numbers).take_while(|(came, wanted)| came == wanted).count();
        let around = |numbers: &[i64]| {
            numbers.iter().skip(same.saturating_sub(3)).take(12).copied().collect::<Vec<_>>()
        };
        assert!(
            came == numbers,
            "{collector} {measurement}: {} came instead of {}, different at place {same}: {:?} instead of {:?}",
            came.len(),
            numbers.len(),
            around(came),
            around(numbers)
        );
    }

    /// Takes messages until the server closes; the code and the reason of its close frame.
    pub async fn closed(&mut self) -> (u16, String) {
        super::patiently("a close frame", async {
            loop {
                match self.next().await {
                    Event::Message(_) => {}
                    Event::Closed { code, reason } => return (code, reason),
                    Event::Lost => panic!("the connection ended without a close frame"),
                }
            }
        })
        .await
    }

    /// Sends a message and returns the next one of this type.
    pub async fn ask(&mut self, message: &str, answer: &str) -> Value {
        let had = self.ledger.count(answer);
        self.send(message).await;
        self.until(answer, |ledger| ledger.count(answer) > had).await;
        self.ledger.last(answer).clone()
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("an open connection");
    }

    /// Sends any message.
    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.expect("an open connection");
    }

    async fn welcome(&mut self) {
        match super::patiently("a welcome", self.next()).await {
            Event::Message(message) if message["type"] == "welcome" => {}
            other => panic!("the first message is a welcome, not {other:?}"),
        }
    }
}

async fn open(
    address: SocketAddr,
    path: &str,
    parameters: &str,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
    let url = format!("ws://{address}{path}?{parameters}");
    let opened = tokio_tungstenite::connect_async_with_config(url, None, true);
    Ok(super::patiently("a handshake", opened).await?.0)
}

impl Refusal {
    fn read(answer: http::Response<Option<Vec<u8>>>) -> Self {
        let (parts, body) = answer.into_parts();
        let json = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or(Value::Null);
        Self { status: parts.status.as_u16(), headers: parts.headers, json }
    }
}
