//! Publishes stamped messages at a fixed rate to a peer that does not make its own.

mod nats;
mod payload;
mod socket;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use peers::pace::Pace;
use peers::stamp::now_ns;

use crate::payload::{Payload, Shape};

/// Publishes stamped messages at a fixed rate until it is stopped
#[derive(Parser)]
struct Args {
    /// Messages per second
    #[arg(long)]
    rate: f64,
    /// Bytes of a message as clients get it
    #[arg(long, default_value_t = 512)]
    bytes: usize,
    #[command(subcommand)]
    to: To,
}

#[derive(Subcommand)]
enum To {
    /// A NATS server: one PUB or HPUB per message, nothing acknowledged
    Nats {
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        subject: String,
        /// What a message looks like. `line` also has the headers that Telecast's ingest writes
        #[arg(long, value_enum, default_value = "json")]
        shape: Shape,
    },
    /// A server that takes messages over WebSocket: one frame per message
    Websocket {
        #[arg(long)]
        server: SocketAddr,
        /// Path and query of the upgrade
        #[arg(long, default_value = "/")]
        path: String,
        /// One more header of the upgrade; may be repeated
        #[arg(long = "header")]
        headers: Vec<String>,
        /// What to send first: `text:…` or `binary:…`, with `\r`, `\n`, `\\` and `\xNN` for bytes; may be repeated
        #[arg(long = "hello", value_parser = peers::hello::frame)]
        hellos: Vec<peers::hello::Frame>,
        /// What a frame holds, written as in --hello, with `{}` for the message
        #[arg(long, default_value = "text:{}", value_parser = socket::Template::parse)]
        template: socket::Template,
    },
}

/// Where messages go.
trait Publish {
    fn publish(&mut self, message: &[u8]) -> anyhow::Result<()>;
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (shape, mut publisher): (_, Box<dyn Publish>) = match args.to {
        To::Nats { server, subject, shape } => {
            (shape, Box::new(nats::Nats::connect(server, &subject, shape)?))
        }
        To::Websocket { server, path, headers, hellos, template } => {
            (Shape::Json, Box::new(socket::Socket::connect(server, &path, &headers, &hellos, template)?))
        }
    };
    let payload = Payload { shape, bytes: args.bytes };
    let mut pace = Pace::new(args.rate);
    loop {
        let now_ns = now_ns();
        while let Some(stamp) = pace.take(now_ns) {
            publisher.publish(&payload.with(stamp)?)?;
        }
        std::thread::sleep(pace.wait(now_ns).unwrap_or(Duration::from_secs(1)));
    }
}
