use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::proto::line;

/// An ingest that is only a socket, played by another WebSocket implementation.
struct Ingest {
    listener: TcpListener,
    shutdown: CancellationToken,
    demo: JoinSet<()>,
}

impl Ingest {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws/collector", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let mut demo = JoinSet::new();
        demo.spawn(run(url, shutdown.clone()));
        Self { listener, shutdown, demo }
    }

    async fn accept(&self) -> WebSocketStream<TcpStream> {
        let (stream, _) = self.listener.accept().await.unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.demo.join_next().await.unwrap().unwrap();
    }
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    socket.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn each_second_is_one_binary_message_of_lines_and_pings_are_answered() {
    let ingest = Ingest::start().await;
    let mut socket = ingest.accept().await;
    socket.send(Message::Ping(vec![7].into())).await.unwrap();
    let mut ponged = false;
    let mut seconds = Vec::new();
    while seconds.len() < 2 || !ponged {
        match next(&mut socket).await {
            Message::Binary(lines) => {
                let timestamps: Vec<_> =
                    line::lines(&lines).map(|line| line.unwrap().timestamp().unwrap()).collect();
                assert!(timestamps.iter().all(|timestamp| *timestamp == timestamps[0]));
                assert_eq!(timestamps[0] % 1_000_000_000, 0);
                seconds.push(timestamps[0]);
            }
            Message::Pong(payload) => {
                assert_eq!(&*payload, [7]);
                ponged = true;
            }
            other => panic!("a collector sends no {other:?}"),
        }
    }
    assert!(seconds[1] > seconds[0], "{seconds:?}");
    ingest.stop().await;
}

#[tokio::test]
async fn a_stop_closes_as_asked_even_between_two_samples() {
    let ingest = Ingest::start().await;
    let mut socket = ingest.accept().await;
    // The handshake ends later on the demo's side than here: only a pong says that it is past it.
    socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    while !matches!(next(&mut socket).await, Message::Pong(_)) {}
    ingest.stop().await;
    loop {
        match next(&mut socket).await {
            Message::Close(Some(close)) => return assert_eq!(u16::from(close.code), 1000),
            Message::Binary(_) => {}
            other => panic!("a collector sends no {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let ingest = Ingest::start().await;
    drop(ingest.accept().await);
    let mut socket = ingest.accept().await;
    assert!(matches!(next(&mut socket).await, Message::Binary(_)));
    // Told to go: it answers the close and comes again.
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    ingest.accept().await;
    ingest.stop().await;
}

#[tokio::test]
async fn a_server_that_is_no_websocket_and_a_bad_address_are_told_apart() {
    assert!(matches!(Link::connect("http://127.0.0.1/").await, Err(LinkError::Address(_))));
    assert!(matches!(Link::connect("nonsense").await, Err(LinkError::Address(_))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        stream
    };
    let (connected, _stream) = tokio::join!(Link::connect(&url), serve);
    assert!(matches!(connected, Err(LinkError::Refused(status)) if status == 503));
}
