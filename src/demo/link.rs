//! The demo collector's WebSocket connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::host::Sampler;
use crate::proto::frame::{Decoder, Event, FrameError, Opcode, Peer, close_payload, encode_masked};
use crate::proto::message::CloseCode;
use crate::sync::Locked;

/// Connecting and the handshake take at most so long.
const CONNECT_TIMEOUT_S: u64 = 5;

/// A message the server does not take for so long ends the connection.
const WRITE_TIMEOUT_S: u64 = 30;

/// A server from which nothing comes for so long, not even a ping, is gone. Ingest pings every 10 s.
const READ_TIMEOUT_S: u64 = 30;

/// Largest message of the server that is read, in bytes; it sends none but errors.
const SERVER_MESSAGE_BYTES_MAX: usize = 64 * 1024;

const SECOND_NS: u64 = 1_000_000_000;

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("`{0}` is no address: it looks like ws://127.0.0.1:9090/ws/collector")]
    Address(String),
    #[error("nothing answers within {CONNECT_TIMEOUT_S} s")]
    ConnectTimeout,
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] hyper::Error),
    #[error("the server answered {0} instead of opening a WebSocket")]
    Refused(StatusCode),
    #[error("the server broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("the server closed with {code:?} {reason:?}")]
    Closed { code: Option<u16>, reason: String },
    #[error("the server has not read for {WRITE_TIMEOUT_S} s")]
    NotReading,
    #[error("nothing came from the server for {READ_TIMEOUT_S} s")]
    Silent,
    #[error("measuring this host failed")]
    Sampler,
    #[error("this process is stopping")]
    Stopped,
}

/// An open connection.
pub(super) struct Link {
    socket: TokioIo<Upgraded>,
}

impl Link {
    pub(super) async fn connect(url: &str) -> Result<Self, LinkError> {
        let timeout = Duration::from_secs(CONNECT_TIMEOUT_S);
        tokio::time::timeout(timeout, Self::handshake(url)).await.map_err(|_| LinkError::ConnectTimeout)?
    }

    /// Asks for the upgrade. `Sec-WebSocket-Accept` is not checked: it unmasks caches that answer in a server's place,
    /// and between this process and itself there is none.
    async fn handshake(url: &str) -> Result<Self, LinkError> {
        let bad_address = || LinkError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad_address())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("ws")).ok_or_else(bad_address)?;
        let port = uri.port_u16().unwrap_or(80);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(HOST, format!("{host}:{port}"))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, STANDARD.encode(fastrand::u128(..).to_be_bytes()))
            .header(USER_AGENT, concat!("telecast-demo/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|_| bad_address())?;

        // An IPv6 host stands in brackets in an address, and without them in a connect.
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection.with_upgrades());
        let response: Response<_> = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(LinkError::Refused(response.status()));
        }
        let upgraded = hyper::upgrade::on(response).await?;
        tasks.join_all().await;
        Ok(Self { socket: TokioIo::new(upgraded) })
    }

    /// Sends a sample on every second and answers pings, until the connection or the process ends.
    pub(super) async fn serve(
        self,
        sampler: &Arc<Locked<Sampler>>,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        let (reader, writer) = tokio::io::split(self.socket);
        let mut incoming = Incoming {
            reader,
            decoder: Decoder::new(Peer::Server, SERVER_MESSAGE_BYTES_MAX),
            buffer: Vec::new(),
        };
        let mut outgoing = Outgoing { writer, shutdown };
        let mut due_ns = next_second_ns(now_ns());
        let mut silent = Box::pin(tokio::time::sleep(Duration::from_secs(READ_TIMEOUT_S)));
        loop {
            let wait = Duration::from_nanos(due_ns.saturating_sub(now_ns()));
            tokio::select! {
                () = shutdown.cancelled() => {
                    let payload = close_payload(CloseCode::Normal.number(), "the demo is stopping");
                    return outgoing.farewell(&payload).await;
                }
                () = &mut silent => return Err(LinkError::Silent),
                () = tokio::time::sleep(wait) => {
                    let lines = sample(sampler, due_ns).await?;
                    outgoing.send(Opcode::Binary, &lines).await?;
                    // Never twice for one second, whatever the clock does; late seconds are left out.
                    due_ns = next_second_ns(now_ns()).max(due_ns + SECOND_NS);
                }
                received = incoming.receive() => {
                    silent.as_mut().reset(tokio::time::Instant::now() + Duration::from_secs(READ_TIMEOUT_S));
                    incoming.answer(received?, &mut outgoing).await?;
                }
            }
        }
    }
}

/// The receiving side. What was read and not yet decoded stays in `buffer`, so [`Incoming::receive`] may be cancelled.
struct Incoming {
    reader: ReadHalf<TokioIo<Upgraded>>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Incoming {
    /// Reads some bytes; cancel-safe, since nothing else is awaited.
    async fn receive(&mut self) -> Result<usize, LinkError> {
        self.buffer.clear();
        match self.reader.read_buf(&mut self.buffer).await? {
            0 => Err(LinkError::Closed { code: None, reason: String::new() }),
            bytes => Ok(bytes),
        }
    }

    async fn answer(&mut self, bytes: usize, outgoing: &mut Outgoing<'_>) -> Result<(), LinkError> {
        let mut input = &self.buffer[..bytes];
        while let Some(event) = self.decoder.decode(&mut input)? {
            match event {
                Event::Ping(payload) => outgoing.send(Opcode::Pong, &payload).await?,
                Event::Close { code, reason } => {
                    let echo = code.map_or_else(Vec::new, |code| close_payload(code, ""));
                    outgoing.send(Opcode::Close, &echo).await?;
                    return Err(LinkError::Closed { code, reason });
                }
                Event::Text(text) => tracing::debug!(event = "demo_told", text, "the server says"),
                Event::Binary(_) | Event::Pong(_) => {}
            }
        }
        Ok(())
    }
}

struct Outgoing<'a> {
    writer: WriteHalf<TokioIo<Upgraded>>,
    shutdown: &'a CancellationToken,
}

impl Outgoing<'_> {
    /// Sends one frame. A server under back-pressure may not read for a while; stopping need not wait for it.
    async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), LinkError> {
        tokio::select! {
            () = self.shutdown.cancelled() => Err(LinkError::Stopped),
            sent = write(&mut self.writer, opcode, payload) => sent,
        }
    }

    async fn farewell(&mut self, payload: &[u8]) -> Result<(), LinkError> {
        let told = write(&mut self.writer, Opcode::Close, payload);
        // The server may be stopping as well, and not reading any more.
        tokio::time::timeout(Duration::from_secs(1), told).await.unwrap_or(Ok(()))
    }
}

async fn write(
    writer: &mut WriteHalf<TokioIo<Upgraded>>,
    opcode: Opcode,
    payload: &[u8],
) -> Result<(), LinkError> {
    let mut frame = Vec::new();
    encode_masked(&mut frame, true, opcode, fastrand::u32(..).to_be_bytes(), payload);
    let written = async {
        writer.write_all(&frame).await?;
        writer.flush().await
    };
    let timeout = Duration::from_secs(WRITE_TIMEOUT_S);
    Ok(tokio::time::timeout(timeout, written).await.map_err(|_| LinkError::NotReading)??)
}

/// Measures on a thread that may block: some files of `/proc`, and file systems that do not answer, take their time.
async fn sample(sampler: &Arc<Locked<Sampler>>, timestamp_ns: u64) -> Result<Vec<u8>, LinkError> {
    let sampler = sampler.clone();
    let measured =
        tokio::task::spawn_blocking(move || sampler.with(|sampler| sampler.sample(timestamp_ns as i64)));
    measured.await.map_err(|_| LinkError::Sampler)
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn next_second_ns(now_ns: u64) -> u64 {
    (now_ns / SECOND_NS + 1) * SECOND_NS
}
