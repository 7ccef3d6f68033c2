//! The bytes of one connection, below the HTTP library.
//!
//! It keeps the deadlines of what nobody else sees: a head that comes slowly, a connection on which nothing is asked. It has a
//! target's characters read as they are meant (`head`). And when the library refuses a head by itself, in an answer without a
//! word, it takes that answer out, so that the connection's end can say more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::exchange::{Exchange, Expired, Held, Left};
use super::head::Scanner;

/// An answer of the library's own is a head of three short lines.
const OWN_ANSWER_BYTES_MAX: usize = 256;

/// A peer that has said all it had to say may still wait for the answer, as `nc -N` and some agents do; to the library it has
/// gone. So it hears of that a little later: most answers are out by then, and what waits for ever is given up soon enough.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(2);

/// The bytes of one connection.
pub(crate) struct Stream {
    /// Taken out at the end.
    socket: Option<TcpStream>,
    exchange: Arc<Exchange>,
    scanner: Scanner,
    /// What the library reads next, instead of what came.
    changed: Bytes,
    timer: Option<Pin<Box<Sleep>>>,
    expired: Option<Expired>,
    refused: Option<u16>,
    /// When the peer ended its side, while it was being answered.
    half_closed: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) fn new(socket: TcpStream, exchange: Arc<Exchange>) -> Self {
        Self {
            socket: Some(socket),
            exchange,
            scanner: Scanner::default(),
            changed: Bytes::new(),
            timer: None,
            expired: None,
            refused: None,
            half_closed: None,
        }
    }

    /// The bare socket of an upgraded connection, and the room that it takes.
    pub(super) fn into_socket(mut self) -> Option<(TcpStream, Held)> {
        Some((self.socket.take()?, self.exchange.take_held()))
    }

    fn socket(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ready when the connection has waited long enough.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let (now, deadline) = (Instant::now(), self.exchange.deadline());
            if let Some((at, expired)) = deadline
                && at <= now
            {
                return Poll::Ready(expired);
            }
            let look_again = now + self.exchange.look_again();
            let at = deadline.map_or(look_again, |(at, _)| at.min(look_again));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            // One that is too early only looks again: so it is not set anew with every request.
            if timer.deadline() > at || timer.is_elapsed() {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(context));
        }
    }

    /// Ready when the library shall hear that the peer has ended its side.
    fn poll_half_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.exchange.is_waiting() {
            return Poll::Ready(());
        }
        let timer =
            self.half_closed.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HALF_CLOSED_GRACE)));
        timer.as_mut().poll(context)
    }

    /// Has a head read as it is meant.
    fn scan(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        if !self.exchange.is_waiting() {
            self.exchange.note_bytes();
            return;
        }
        if !self.exchange.is_in_head() {
            self.scanner.restart();
        }
        let changed = self.scanner.read(&buffer.filled()[before..]);
        if self.scanner.has_begun() {
            self.exchange.note_bytes();
            self.exchange.note_more(self.scanner.has_more());
        }
        if let Some(changed) = changed {
            buffer.set_filled(before);
            self.changed = changed.into();
            self.give_changed(buffer);
        }
    }

    fn give_changed(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = self.changed.len().min(buffer.remaining());
        buffer.put_slice(&self.changed[..bytes]);
        self.changed.advance(bytes);
    }

    /// Whether the library answers a head by itself. Answers of routes say `nosniff`, and may still be on their way when
    /// nothing is asked any more.
    fn takes_out(&mut self, bytes: &[u8]) -> bool {
        if self.refused.is_some() {
            return true;
        }
        let is_own = bytes.starts_with(b"HTTP/1.1 4")
            && bytes.len() <= OWN_ANSWER_BYTES_MAX
            && bytes.ends_with(b"\r\n\r\n")
            && memchr::memmem::find(bytes, b"content-length: 0\r\n").is_some()
            && memchr::memmem::find(bytes, b"nosniff").is_none()
            && self.exchange.is_waiting();
        if is_own {
            self.refused = std::str::from_utf8(&bytes[9..12]).ok().and_then(|status| status.parse().ok());
        }
        self.refused.is_some()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.changed.is_empty() {
            this.give_changed(buffer);
            return Poll::Ready(Ok(()));
        }
        if this.exchange.is_upgraded() {
            return this.socket()?.poll_read(context, buffer);
        }
        if this.expired.is_some() {
            return Poll::Ready(Ok(()));
        }
        if this.half_closed.is_some() {
            return this.poll_half_closed(context).map(Ok);
        }
        let before = buffer.filled().len();
        match this.socket()?.poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                if buffer.filled().len() == before {
                    return this.poll_half_closed(context).map(Ok);
                }
                this.scan(buffer, before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // To the library, a connection that shall end is one that the peer has ended.
            Poll::Pending if this.exchange.leave().is_cancelled() && this.exchange.is_waiting() => {
                this.expired = Some(Expired::Idle);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                this.expired = Some(ready!(this.poll_deadline(context)));
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.takes_out(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        self.socket()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && self.takes_out(first)
        {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.socket()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(context)
    }

    /// The connection's task closes it, when all is said.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.exchange.is_upgraded() { self.socket()?.poll_shutdown(context) } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.exchange.is_upgraded() {
            return;
        }
        if let Some(socket) = self.socket.take() {
            let (refused, expired) = (self.refused, self.expired);
            self.exchange.leave_behind(Left { socket, refused, expired, fault: self.scanner.fault() });
        }
    }
}
