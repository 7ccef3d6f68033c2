//! One connection of a client, whatever it is made of.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use telecast::proto::offset::Offset;
use tokio::time::timeout;

use crate::socket::Socket;
use crate::support::event_stream::{EventStream, MessageEvent};

/// An answer that has not begun by then never will: a poll takes 25 seconds by itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How a client is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Deflated,
    Events,
    Poll,
}

impl Transport {
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Deflated, Self::Events, Self::Poll];
}

/// What a client asks for.
#[derive(Clone)]
pub struct Parameters {
    /// On every connection.
    pub all: String,
    /// Where it begins, unless it has been somewhere already.
    pub begin: &'static str,
}

impl Parameters {
    fn place(&self, at: Option<&Offset>) -> String {
        at.map_or_else(|| self.begin.to_owned(), |at| format!("&from={at}"))
    }
}

/// See the module.
pub enum Link {
    Socket(Box<Socket>),
    Events(Box<Events>),
    Poll(Poll),
}

/// A stream of server-sent events.
pub struct Events {
    response: reqwest::Response,
    stream: EventStream,
    /// Received, and not looked at yet.
    waiting: VecDeque<MessageEvent>,
    last_id: String,
}

/// A client that asks again and again.
pub struct Poll {
    http: reqwest::Client,
    url: String,
    parameters: Parameters,
    waiting: VecDeque<Piece>,
}

/// What a link brings.
#[derive(Debug, PartialEq)]
pub enum Piece {
    Message(String),
    /// The place where the next poll goes on.
    Next(String),
}

impl Link {
    /// Opens a connection that goes on behind `at`, or with what `parameters` say.
    pub async fn open(
        http: &reqwest::Client,
        transport: Transport,
        address: SocketAddr,
        parameters: &Parameters,
        at: Option<&Offset>,
    ) -> io::Result<Self> {
        let Parameters { all, begin } = parameters;
        match transport {
            Transport::WebSocket | Transport::Deflated => {
                let path = format!("/ws?{all}{}", parameters.place(at));
                let deflated = transport == Transport::Deflated;
                Ok(Self::Socket(Box::new(Socket::open(address, &path, deflated).await?)))
            }
            Transport::Events => {
                let mut request = http.get(format!("http://{address}/sse?{all}{begin}"));
                if let Some(at) = at {
                    // As a browser comes back: the same URL, and the last id.
                    request = request.header("last-event-id", at.token());
                }
                let response = answer(request).await?;
                let (stream, waiting) = (EventStream::default(), VecDeque::new());
                let last_id = at.map(Offset::token).unwrap_or_default();
                Ok(Self::Events(Box::new(Events { response, stream, waiting, last_id })))
            }
            Transport::Poll => {
                let url = format!("http://{address}/api/metrics/poll?{all}");
                let (http, parameters) = (http.clone(), parameters.clone());
                Ok(Self::Poll(Poll { http, url, parameters, waiting: VecDeque::new() }))
            }
        }
    }

    /// What comes next for a client that is at `at`; an error is the end of the connection. Not cancel-safe.
    pub async fn next(&mut self, at: Option<&Offset>) -> io::Result<Piece> {
        match self {
            Self::Socket(socket) => socket.next().await.map(Piece::Message),
            Self::Events(events) => events.next().await.map(Piece::Message),
            Self::Poll(poll) => poll.next(at).await,
        }
    }

    /// The id that a browser would come back with.
    pub fn last_event_id(&self) -> Option<&str> {
        match self {
            Self::Events(events) if !events.last_id.is_empty() => Some(&events.last_id),
            _ => None,
        }
    }
}

impl Events {
    async fn next(&mut self) -> io::Result<String> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                // Some streams begin with events without an id: a browser then still knows the one it came with.
                if !event.last_event_id.is_empty() {
                    self.last_id = event.last_event_id;
                }
                return Ok(event.data);
            }
            match self.response.chunk().await.map_err(io::Error::other)? {
                Some(bytes) => self.waiting.extend(self.stream.take(&bytes)),
                None => return Err(io::Error::other("the stream has ended")),
            }
        }
    }
}

impl Poll {
    async fn next(&mut self, at: Option<&Offset>) -> io::Result<Piece> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Ok(piece);
            }
            let url = format!("{}{}", self.url, self.parameters.place(at));
            let answer = answer(self.http.get(url)).await?;
            let header = answer.headers().get("x-next-offset").and_then(|next| next.to_str().ok());
            let header = header.map(str::to_owned).ok_or_else(|| io::Error::other("no X-Next-Offset"))?;
            let is_json = answer.headers()["content-type"].as_bytes().starts_with(b"application/json");
            let body = answer.text().await.map_err(io::Error::other)?;
            match is_json {
                true => self.take_json(&body, &header)?,
                false => self.take_lines(&body),
            }
            self.waiting.push_back(Piece::Next(header));
        }
    }

    fn take_json(&mut self, body: &str, header: &str) -> io::Result<()> {
        let body: Value = serde_json::from_str(body)?;
        if body["next"] != header {
            return Err(io::Error::other(format!("next is {} and X-Next-Offset {header}", body["next"])));
        }
        let messages = body["messages"].as_array().ok_or_else(|| io::Error::other("no messages"))?;
        self.waiting.extend(messages.iter().map(|message| Piece::Message(message.to_string())));
        Ok(())
    }

    /// One text per `# offset`, which is how each message of line protocol begins; other messages are comments.
    fn take_lines(&mut self, body: &str) {
        let mut message = String::new();
        for line in body.lines() {
            let other = line.strip_prefix("# ").filter(|other| other.starts_with('{'));
            let begins = other.is_some() || line.starts_with("# offset ");
            if begins && !message.is_empty() {
                self.waiting.push_back(Piece::Message(std::mem::take(&mut message)));
            }
            if let Some(other) = other {
                self.waiting.push_back(Piece::Message(other.to_owned()));
                continue;
            }
            message.push_str(line);
            message.push('\n');
        }
        if !message.is_empty() {
            self.waiting.push_back(Piece::Message(message));
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> io::Result<reqwest::Response> {
    let response = timeout(ANSWER_TIMEOUT, request.send()).await?.map_err(io::Error::other)?;
    response.error_for_status().map_err(io::Error::other)
}
