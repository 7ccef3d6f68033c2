//! A peer: axum's WebSocket and tokio's broadcast channel in one `select!`, as axum's examples do it.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::ws::{Message as Frame, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use clap::Parser;
use peers::broadcast::{self, Message};
use tokio::net::TcpListener;
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;

/// axum and a broadcast channel
#[derive(Parser)]
struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Messages per second to each client
    #[arg(long)]
    rate: f64,
    /// Payload of a message in bytes
    #[arg(long, default_value_t = 512)]
    bytes: usize,
    /// Send nothing until so many clients are there
    #[arg(long, default_value_t = 0)]
    await_clients: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?
        .tap_io(|client| {
            // Without it messages would wait; the client would tell.
            let _ = client.set_nodelay(true);
        });
    let messages = broadcast::channel();
    let mut publishing = JoinSet::new();
    publishing.spawn(broadcast::publish(messages.clone(), args.await_clients, args.rate, args.bytes));
    let upgrade = move |upgrade: WebSocketUpgrade| {
        let messages = messages.subscribe();
        async move { upgrade.on_upgrade(|socket| serve(socket, messages)) }
    };
    let router: Router = Router::new().route("/", get(upgrade));
    tokio::select! {
        ended = axum::serve(listener, router) => ended.context("serving"),
        Some(ended) = publishing.join_next() => ended?,
    }
}

async fn serve(mut socket: WebSocket, mut messages: Receiver<Message>) {
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(text) = message.ok().and_then(|message| text(&message)) else { return };
                if socket.send(Frame::Text(text)).await.is_err() {
                    return;
                }
            }
            received = socket.recv() => {
                if !matches!(received, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}

fn text(message: &[u8]) -> Option<Utf8Bytes> {
    std::str::from_utf8(message).ok().map(Utf8Bytes::from)
}
