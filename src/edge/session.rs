//! One connected client, as its writer keeps it: a cursor, what is unwritten, and when things happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::edge::catch_up::Fed;
use crate::edge::doorbell::SessionKey;
use crate::edge::hub::Head;
use crate::edge::outbox::Outbox;
use crate::edge::ring::Index;
use crate::edge::view::{Cursor, Seat};
use crate::ops::node::Admission;
use crate::proto::offset::Offset;

/// One connected client.
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) socket: Arc<TcpStream>,
    pub(crate) seat: Seat,
    pub(crate) mode: Mode,
    /// Its view's group and its position there, while it is live.
    pub(crate) member: Option<(usize, usize)>,
    pub(crate) outbox: Outbox,
    /// Everything up to here was written to the socket, filtered out or announced as a gap.
    pub(crate) at: Arc<Offset>,
    /// The ring's index of that place, for live sessions.
    pub(crate) index: Index,
    /// Since when the socket takes nothing.
    pub(crate) blocked_since: Option<Instant>,
    /// The socket has blocked since the session last had everything there was: if it is overtaken now, it is too slow.
    pub(crate) behind: bool,
    /// Made when the socket blocks for the first time.
    pub(crate) waker: Option<Waker>,
    /// When the client last learnt an offset.
    pub(crate) offset_sent: Instant,
    pub(crate) ping_sent: Instant,
    pub(crate) heard: Heard,
    /// Its place on the node, free again when the session is dropped.
    pub(crate) _admission: Admission,
}

/// Where a session's frames come from.
pub(crate) enum Mode {
    /// It has not been given its place yet.
    Starting,
    /// From its view.
    Live(Cursor),
    /// From the ring or the log, until it can join its view.
    CatchingUp(mpsc::Receiver<Fed>),
    /// From nowhere: what is in the outbox is its last.
    Closing {
        /// It ends by itself at this time.
        until: Instant,
        /// The client has sent its close frame: once ours is written, nothing is left to wait for.
        answered: bool,
    },
}

/// When a client was last heard of; shared with the task that reads its socket.
#[derive(Clone)]
pub(crate) struct Heard(Arc<(Instant, AtomicU64)>);

impl Heard {
    /// Heard of right now.
    pub(crate) fn now() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }

    /// Bytes came.
    pub(crate) fn update(&self) {
        self.0.1.store(self.0.0.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// For how long nothing came.
    pub(crate) fn silence(&self) -> std::time::Duration {
        let heard = std::time::Duration::from_millis(self.0.1.load(Ordering::Relaxed));
        self.0.0.elapsed().saturating_sub(heard)
    }
}

impl Session {
    /// Whether it takes frames of its view.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live(_))
    }

    /// Whether it only waits for its end.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.mode, Mode::Closing { .. })
    }

    /// A live session that has written everything up to the end of its view has seen everything up to `head`, which must
    /// have been read before this call. It may have seen more: views get an entry's frame before the head is made known,
    /// and a session that was put back to the head would get those frames twice.
    pub(crate) fn note_idle(&mut self, head: &Head) {
        if let Mode::Live(cursor) = self.mode
            && self.outbox.wants_batch()
            && self.seat.view().end() == cursor
            && head.index > self.index
        {
            self.at = head.offset.clone();
            self.index = head.index;
        }
    }

    /// Nothing more will be written; what the client still says is read until it hangs up too.
    pub(crate) fn finish_writing(&self) {
        let _ = socket2::SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Write);
    }

    /// Ends the connection in both directions; the task that reads the socket notices.
    pub(crate) fn hang_up(&self) {
        // A socket that the peer has closed already cannot be shut down again, which is as good.
        let _ = socket2::SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both);
    }
}
