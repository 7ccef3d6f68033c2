//! What a session writes to: the raw socket of a WebSocket, or a pipe into the body of an HTTP response.
//!
//! Both are written and watched in the same way, by a writer that never waits for either. A pipe is short: what its
//! connection does not take stays with the session, as with a socket whose buffer is full.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that a pipe holds: a few messages, so that a connection that is being written to does not wait for each.
const PIPE_BYTES: usize = 16 * 1024;

/// See the module.
pub(crate) enum Socket {
    /// The connection itself.
    Tcp(TcpStream),
    /// One end of a pipe; whoever has the other one writes an HTTP response.
    Pipe(DuplexStream),
}

impl Socket {
    /// A pipe, and the end for its reader: it reads to the end of the file when the session ends, and dropping it ends the
    /// session.
    pub(crate) fn pipe() -> (Self, DuplexStream) {
        let (socket, reader) = tokio::io::duplex(PIPE_BYTES);
        (Self::Pipe(socket), reader)
    }

    /// Whether the peer reads and writes frames: it can be asked for a sign of life, and answers when it is told goodbye.
    pub(crate) fn converses(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Writes what fits. When nothing does, that is [`ErrorKind::WouldBlock`].
    pub(crate) fn write(&mut self, waker: &Waker, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Pipe(pipe) => {
                at_once(waker, |context| Pin::new(&mut *pipe).poll_write_vectored(context, slices))
            }
        }
    }

    /// Reads what is there. When nothing is, that is [`ErrorKind::WouldBlock`]; at the end, it is 0.
    pub(crate) fn read(&mut self, waker: &Waker, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Pipe(pipe) => {
                let mut buffer = ReadBuf::new(buffer);
                at_once(waker, |context| Pin::new(&mut *pipe).poll_read(context, &mut buffer))?;
                Ok(buffer.filled().len())
            }
        }
    }

    /// Has `waker` woken when bytes can be written again, after an attempt that would have blocked. True when they can
    /// already.
    pub(crate) fn watch_writable(&self, waker: &Waker) -> bool {
        match self {
            Self::Tcp(stream) => is_ready(waker, |context| stream.poll_write_ready(context)),
            // The attempt has done it.
            Self::Pipe(_) => false,
        }
    }

    /// The same for reading.
    pub(crate) fn watch_readable(&self, waker: &Waker) -> bool {
        match self {
            Self::Tcp(stream) => is_ready(waker, |context| stream.poll_read_ready(context)),
            Self::Pipe(_) => false,
        }
    }

    /// Nothing more will be written; what the client still says is read until it hangs up too.
    pub(crate) fn finish_writing(&self) {
        if let Self::Tcp(stream) = self {
            let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
        }
    }
}

fn at_once<T>(waker: &Waker, poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> io::Result<T> {
    match poll_unbudgeted(waker, poll) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

fn is_ready(waker: &Waker, poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>) -> bool {
    poll_unbudgeted(waker, poll).is_ready()
}

/// Outside of tokio's budget per turn: beyond it, a socket that has nothing would be called ready instead of being watched,
/// and a pipe that has room would be called full.
fn poll_unbudgeted<T>(waker: &Waker, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let polled = tokio::task::unconstrained(std::future::poll_fn(poll));
    pin!(polled).poll(&mut Context::from_waker(waker))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_full_pipe_blocks_and_wakes_its_session_when_there_is_room() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let (mut socket, mut reader) = Socket::pipe();
        let bytes = vec![7; PIPE_BYTES + 1];
        assert_eq!(socket.write(&waker, &[IoSlice::new(&bytes)]).unwrap(), PIPE_BYTES);
        let blocked = socket.write(&waker, &[IoSlice::new(&bytes)]).unwrap_err();
        assert_eq!((blocked.kind(), socket.watch_writable(&waker)), (ErrorKind::WouldBlock, false));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        reader.read_exact(&mut [0; 100]).await.unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(socket.write(&waker, &[IoSlice::new(&bytes)]).unwrap(), 100);
    }

    /// Many pipes are written in one turn of a writer; tokio would have most of them wait for the next.
    #[tokio::test]
    async fn no_budget_makes_an_empty_pipe_look_full() {
        let waker = Waker::from(Arc::new(Woken::default()));
        let mut pipes: Vec<_> = (0..1_000).map(|_| Socket::pipe()).collect();
        for (socket, _) in &mut pipes {
            assert_eq!(socket.write(&waker, &[IoSlice::new(b"x")]).unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn a_pipe_tells_when_its_reader_has_left_and_ends_with_its_session() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let (mut socket, reader) = Socket::pipe();
        let nothing = socket.read(&waker, &mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        drop(reader);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(socket.read(&waker, &mut [0; 8]).unwrap(), 0);

        let (mut socket, mut reader) = Socket::pipe();
        assert_eq!(socket.write(&waker, &[IoSlice::new(b"the "), IoSlice::new(b"last")]).unwrap(), 8);
        drop(socket);
        let mut all = String::new();
        reader.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "the last");
    }
}
