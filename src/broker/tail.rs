//! The bounded way from a log to one live reader.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::broker::Stored;

/// Most envelopes waiting for one reader: 1.6 s of 10,000 envelopes a second.
pub(crate) const TAIL_ENVELOPES_MAX: usize = 16_384;
/// Most bytes waiting for one reader, so that large envelopes cannot make the first bound meaningless.
pub(crate) const TAIL_BYTES_MAX: usize = 64 << 20;

/// Sends to one reader, and drops what does not fit: the reader sees the hole in the sequences and repairs it.
pub(crate) struct TailSender {
    sender: mpsc::Sender<Stored>,
    /// Sizes of the newest envelopes sent; the ones still waiting are the last of them.
    sizes: VecDeque<usize>,
    waiting_bytes: usize,
}

/// What became of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a reader that is gone has to be forgotten"]
pub(crate) enum Sent {
    /// It is waiting for the reader.
    Waiting,
    /// There was no room; the reader will miss it.
    Dropped,
    /// Nobody reads any more.
    ReaderGone,
}

impl TailSender {
    /// A sender and its reader.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Stored>) {
        let (sender, receiver) = mpsc::channel(TAIL_ENVELOPES_MAX);
        (Self { sender, sizes: VecDeque::new(), waiting_bytes: 0 }, receiver)
    }

    /// Hands over one envelope without ever waiting.
    pub(crate) fn send(&mut self, stored: Stored) -> Sent {
        self.forget_taken();
        let size = stored.envelope.lines.len();
        if self.waiting_bytes + size > TAIL_BYTES_MAX && !self.sizes.is_empty() {
            return if self.is_closed() { Sent::ReaderGone } else { Sent::Dropped };
        }
        match self.sender.try_send(stored) {
            Ok(()) => {
                self.sizes.push_back(size);
                self.waiting_bytes += size;
                Sent::Waiting
            }
            Err(mpsc::error::TrySendError::Full(_)) => Sent::Dropped,
            Err(mpsc::error::TrySendError::Closed(_)) => Sent::ReaderGone,
        }
    }

    /// Whether the reader is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns when the reader is gone.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// The channel keeps order, so what the reader took are the oldest sizes.
    fn forget_taken(&mut self) {
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        while self.sizes.len() > waiting {
            self.waiting_bytes -= self.sizes.pop_front().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::channel::{Channel, CollectorId};
    use crate::proto::envelope::Envelope;

    fn stored(sequence: u64, bytes: usize) -> Stored {
        let channel = Channel::new(CollectorId::new("web-01").unwrap(), "cpu");
        let envelope = Envelope { channel, stamp: None, lines: Bytes::from(vec![b'x'; bytes]) };
        Stored { sequence, stored_ns: 0, envelope }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_bounded_bytes() {
        let (mut sender, mut receiver) = TailSender::channel();
        let half = TAIL_BYTES_MAX / 2;
        assert_eq!(sender.send(stored(1, half)), Sent::Waiting);
        assert_eq!(sender.send(stored(2, half)), Sent::Waiting);
        assert_eq!(sender.send(stored(3, 1)), Sent::Dropped);
        assert_eq!(receiver.try_recv().unwrap().sequence, 1);
        assert_eq!(sender.send(stored(4, 1)), Sent::Waiting);
        drop(receiver);
        assert_eq!(sender.send(stored(5, 1)), Sent::ReaderGone);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_bounded_envelopes() {
        let (mut sender, _receiver) = TailSender::channel();
        let sent =
            (0..TAIL_ENVELOPES_MAX as u64 + 10).filter(|n| sender.send(stored(*n, 1)) == Sent::Waiting);
        assert_eq!(sent.count(), TAIL_ENVELOPES_MAX);
    }
}
