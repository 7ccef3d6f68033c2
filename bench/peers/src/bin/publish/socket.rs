//! Publishing over WebSocket: the cheapest way into servers that offer it, for them too.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, ensure};
use memchr::memmem;
use peers::hello::{self, Frame};
use peers::websocket::{HEAD_BYTES_MAX, HEAD_END, Opcode, masked_frame, request};

use crate::Publish;

const PLACE: &[u8] = b"{}";

/// What stands around a message.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    opcode: Opcode,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Template {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let (opcode, around) = hello::message(text)?;
        let at = memmem::find(&around, PLACE).context("a template holds {} where the message goes")?;
        Ok(Self { opcode, before: around[..at].to_vec(), after: around[at + PLACE.len()..].to_vec() })
    }
}

/// An open WebSocket, and a thread that reads what nobody wants to know.
pub(crate) struct Socket {
    socket: TcpStream,
    template: Template,
}

impl Socket {
    pub(crate) fn connect(
        server: SocketAddr,
        path: &str,
        headers: &[String],
        hellos: &[Frame],
        template: Template,
    ) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(server).with_context(|| format!("no server at {server}"))?;
        socket.set_nodelay(true)?;
        socket.write_all(&request(&server.to_string(), path, headers))?;
        await_upgrade(&mut socket)?;
        for hello in hellos {
            socket.write_all(hello)?;
        }
        let reading = socket.try_clone()?;
        std::thread::spawn(move || discard(reading));
        Ok(Self { socket, template })
    }
}

impl Publish for Socket {
    fn publish(&mut self, message: &[u8]) -> anyhow::Result<()> {
        let Template { opcode, before, after } = &self.template;
        let frame = masked_frame(*opcode, &[before, message, after].concat());
        self.socket.write_all(&frame).context("the server went away")
    }
}

fn await_upgrade(socket: &mut TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while memmem::find(&head, HEAD_END).is_none() {
        let count = socket.read(&mut piece)?;
        ensure!(count > 0 && head.len() < HEAD_BYTES_MAX, "the server did not complete the handshake");
        head.extend_from_slice(&piece[..count]);
    }
    let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    ensure!(head.starts_with(b"HTTP/1.1 101"), "the server refused: {}", String::from_utf8_lossy(status));
    Ok(())
}

/// Answers to messages would fill the socket otherwise. The end of the connection ends the program.
fn discard(mut reading: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while reading.read(&mut buffer).is_ok_and(|count| count > 0) {}
    eprintln!("publish: the server closed the connection");
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_holds_the_message() {
        let template = Template::parse(r#"binary:\x30a{}z"#).unwrap();
        assert_eq!(
            (template.opcode, &template.before[..], &template.after[..]),
            (Opcode::Binary, &b"0a"[..], &b"z"[..])
        );
        assert!(Template::parse("text:nothing").is_err());
    }
}
