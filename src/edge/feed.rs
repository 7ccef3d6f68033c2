//! What a session that catches up is fed, as its writer holds it: one portion at a time, asked for when the one before is
//! written, and given back while the socket takes nothing, so that those who do not read hold nothing.

use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::edge::catch_up::{Fed, Joined};
use crate::edge::replay::portion::Portion;
use crate::proto::offset::Offset;

/// Why a client is sent away whose replay ended before it was complete, which is a fault of this program.
const BROKE_OFF: &str = "the replay broke off: connect again";

/// See the module.
pub(crate) struct Feed {
    /// Asks for what follows a place.
    asks: mpsc::Sender<Arc<Offset>>,
    fed: mpsc::Receiver<Fed>,
    hand: Hand,
}

/// What the writer has in its hand for the session.
enum Hand {
    /// Nothing, and nothing was asked for.
    Empty,
    /// Nothing yet.
    Asked,
    /// A portion, and how many bytes of it are written: between frames, as the rest of a begun one goes to the outbox.
    Portion(Arc<Portion>, usize),
    /// It was given back. It is taken up again if somebody still has it.
    Aside(Weak<Portion>, usize),
    /// The end of the way.
    End(Fed),
}

/// What a writer finds.
pub(crate) enum Found {
    /// Something to write: see [`Feed::take`]. It is a new portion, or the rest of one.
    Portion {
        /// Nothing of it is written yet.
        new: bool,
    },
    /// Nothing yet. The session is put on its writer's list when there is.
    Nothing,
    /// Nothing is missing any more.
    Joined(Joined),
    /// The session cannot go on.
    Failed(String),
}

impl Feed {
    /// Nothing yet; what follows the session's place was not asked for.
    pub(crate) fn new(asks: mpsc::Sender<Arc<Offset>>, fed: mpsc::Receiver<Fed>) -> Self {
        Self { asks, fed, hand: Hand::Empty }
    }

    /// What there is for the session, which is at `at`; asks for more if it has written everything.
    pub(crate) fn look(&mut self, at: &Arc<Offset>) -> Found {
        self.take_up(at);
        match std::mem::replace(&mut self.hand, Hand::Empty) {
            Hand::Portion(portion, written) => {
                self.hand = Hand::Portion(portion, written);
                Found::Portion { new: written == 0 }
            }
            Hand::End(Fed::Joined(joined)) => Found::Joined(joined),
            Hand::End(Fed::Failed(why)) => Found::Failed(why),
            asked => {
                self.hand = asked;
                Found::Nothing
            }
        }
    }

    fn take_up(&mut self, at: &Arc<Offset>) {
        if let Hand::Aside(portion, written) = &self.hand {
            self.hand = portion.upgrade().map_or(Hand::Empty, |portion| Hand::Portion(portion, *written));
        }
        if matches!(self.hand, Hand::Empty) {
            // There is room: one is asked for at a time. If nobody listens, nothing will come either.
            let _ = self.asks.try_send(at.clone());
            self.hand = Hand::Asked;
        }
        self.receive();
    }

    fn receive(&mut self) {
        if !matches!(self.hand, Hand::Asked) {
            return;
        }
        self.hand = match self.fed.try_recv() {
            Ok(Fed::Portion(portion)) => Hand::Portion(portion, 0),
            Ok(end) => Hand::End(end),
            Err(TryRecvError::Empty) => Hand::Asked,
            Err(TryRecvError::Disconnected) => Hand::End(Fed::Failed(BROKE_OFF.to_owned())),
        };
    }

    /// Takes the portion into the hand's owner's own.
    pub(crate) fn take(&mut self) -> Option<(Arc<Portion>, usize)> {
        match std::mem::replace(&mut self.hand, Hand::Empty) {
            Hand::Portion(portion, written) => Some((portion, written)),
            other => {
                self.hand = other;
                None
            }
        }
    }

    /// Puts a portion back of which something is left.
    pub(crate) fn put_back(&mut self, portion: Arc<Portion>, written: usize) {
        self.hand = Hand::Portion(portion, written);
    }

    /// The socket takes nothing: whatever is here is held no longer than others hold it.
    pub(crate) fn lay_aside(&mut self) {
        self.receive();
        if let Hand::Portion(portion, written) = &self.hand
            && !portion.own
        {
            self.hand = Hand::Aside(Arc::downgrade(portion), *written);
        }
    }
}
