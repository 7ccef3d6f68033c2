//! A peer: fastwebsockets, a task per client that writes each message by itself.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocket, WebSocketWrite};
use peers::broadcast::{self, Message};
use peers::websocket::{HEAD_BYTES_MAX, HEAD_END, accept};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;

const BACKLOG: u32 = 4096;

/// fastwebsockets, a task per client and a write per message
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
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let listener = socket.listen(BACKLOG)?;
    let messages = broadcast::channel();
    let mut publishing = JoinSet::new();
    publishing.spawn(broadcast::publish(messages.clone(), args.await_clients, args.rate, args.bytes));
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let client = accepted.context("accept: raise the limit of descriptors (ulimit -n)")?.0;
                clients.spawn(serve(client, messages.subscribe()));
            }
            // How a client ended is its own business.
            Some(_) = clients.join_next() => {}
            Some(ended) = publishing.join_next() => return ended?,
        }
    }
}

async fn serve(mut client: TcpStream, messages: Receiver<Message>) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(HEAD_END) {
        let count = client.read_buf(&mut head).await?;
        anyhow::ensure!(count > 0 && head.len() < HEAD_BYTES_MAX, "not a handshake");
    }
    client.write_all(accept(&head).context("not a handshake")?.as_bytes()).await?;
    // Not kept for as long as the client stays.
    drop(head);
    let mut socket = WebSocket::after_handshake(client, Role::Server);
    socket.set_auto_pong(false);
    let (reading, writing) = socket.split(|client| client.into_split());
    // Neither is polled again after the other ended, so that it does not matter that a read cannot be taken up again.
    tokio::select! {
        ended = read(FragmentCollectorRead::new(reading)) => ended,
        ended = write(writing, messages) => ended,
    }
}

async fn read(mut reading: FragmentCollectorRead<OwnedReadHalf>) -> anyhow::Result<()> {
    loop {
        // The benchmark's client sends nothing that wants an answer.
        let frame = reading.read_frame::<_, std::io::Error>(&mut |_| async { Ok(()) }).await?;
        if frame.opcode == OpCode::Close {
            return Ok(());
        }
    }
}

async fn write(
    mut writing: WebSocketWrite<OwnedWriteHalf>,
    mut messages: Receiver<Message>,
) -> anyhow::Result<()> {
    loop {
        let message = messages.recv().await.context("too slow")?;
        writing.write_frame(Frame::text(Payload::Borrowed(&message))).await?;
    }
}
