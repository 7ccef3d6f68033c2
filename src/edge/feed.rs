//! What a session that catches up is fed, between its writer and whoever leads it: one portion at a time, asked for when the one
//! before is written, and given back while the socket takes nothing, so that those who do not read hold nothing.

use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::edge::doorbell::{Doorbell, SessionKey};
use crate::edge::replay::portion::{GivenBack, Portion};
use crate::edge::ring::Index;
use crate::edge::view::Cursor;
use crate::proto::offset::Offset;

/// Why a client is sent away whose replay ended before it was complete, which is a fault of this program.
const BROKE_OFF: &str = "the replay broke off: connect again";

/// What a session's writer is given.
pub(crate) enum Fed {
    /// The next frames.
    Portion(Arc<Portion>),
    /// Nothing is missing any more.
    Joined(Joined),
    /// The log refuses to be read.
    Failed(String),
    /// The client takes too long for what others wait for.
    TooSlow(&'static str),
}

/// How a session goes on with its view.
pub(crate) struct Joined {
    pub(crate) cursor: Cursor,
    pub(crate) index: Index,
    pub(crate) at: Arc<Offset>,
    /// Steps of the log since its last portion, which had nothing for it.
    pub(crate) steps: Index,
}

/// The end of whoever leads a session: what is asked for, and given.
pub(crate) struct Feeder {
    asked: mpsc::Receiver<Arc<Offset>>,
    /// Where the session waits, if it does.
    waiting: Option<Arc<Offset>>,
    fed: mpsc::Sender<Fed>,
    doorbell: Arc<Doorbell>,
    session: SessionKey,
}

/// The session is gone, or was told that it cannot go on.
pub(crate) struct Over;

impl Feeder {
    /// Waits until the session has written everything it was given. Returns where it is then.
    pub(crate) async fn asked(&mut self) -> Result<Arc<Offset>, Over> {
        let at = match self.waiting.take() {
            Some(at) => at,
            None => self.asked.recv().await.ok_or(Over)?,
        };
        self.waiting = Some(at.clone());
        Ok(at)
    }

    /// Gives the session what comes next, when it has asked for it.
    pub(crate) async fn give(&mut self, fed: Fed) -> Result<(), Over> {
        self.asked().await?;
        // There is room: one is given for each that is asked for. Nothing is waited for between the two, so that whoever
        // stops waiting here has not lost what was asked.
        self.fed.try_send(fed).map_err(|_| Over)?;
        self.waiting = None;
        self.doorbell.ready(self.session);
        Ok(())
    }

    /// Runs `work` until it has ended or the session is gone.
    pub(crate) async fn while_wanted(
        wanted: mpsc::Sender<Fed>,
        work: impl Future<Output = Result<(), Over>>,
    ) {
        tokio::select! {
            () = wanted.closed() => {}
            _ = work => {}
        }
    }

    /// See [`Feeder::while_wanted`].
    pub(crate) fn wanted(&self) -> mpsc::Sender<Fed> {
        self.fed.clone()
    }
}

/// The writer's end.
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
    /// Its client is too slow for what others wait for.
    TooSlow(&'static str),
}

impl Feed {
    /// Both ends, with nothing given yet and nothing asked for.
    pub(crate) fn new(doorbell: Arc<Doorbell>, session: SessionKey) -> (Self, Feeder) {
        let (asks, asked) = mpsc::channel(1);
        let (give, fed) = mpsc::channel(1);
        let feeder = Feeder { asked, waiting: None, fed: give, doorbell, session };
        (Self { asks, fed, hand: Hand::Empty }, feeder)
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
            Hand::End(Fed::TooSlow(why)) => Found::TooSlow(why),
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
        if let Hand::Portion(portion, written) = &self.hand {
            let goes = match portion.given_back {
                GivenBack::Always => true,
                GivenBack::Unbegun => *written == 0,
                GivenBack::Never => false,
            };
            if goes {
                self.hand = Hand::Aside(Arc::downgrade(portion), *written);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::edge::batch::{Batch, Frame};
    use crate::edge::replay::portion::Account;
    use crate::proto::offset::{Epoch, Shard};

    fn offset(sequence: u64) -> Arc<Offset> {
        Arc::new(Offset::start(Epoch(1), 1).with(Shard(0), sequence))
    }

    /// A portion that leads to place 7, and is charged.
    fn portion(given_back: GivenBack, account: &Arc<Account>) -> Arc<Portion> {
        let bytes = Bytes::from_static(b"a message");
        let frame = Frame { index: 0, offset: offset(7), bytes, own: true, passage: None };
        Portion::of(Batch::new(vec![frame]).unwrap(), given_back, Some(Arc::new(account.charge(9))))
    }

    #[tokio::test]
    async fn who_takes_nothing_holds_nothing_and_asks_again_unless_that_would_never_end() {
        let at = offset(3);
        for (given_back, written, is_held) in [
            (GivenBack::Always, 0, false),
            (GivenBack::Always, 4, false),
            (GivenBack::Unbegun, 0, false),
            (GivenBack::Unbegun, 4, true),
            (GivenBack::Never, 0, true),
        ] {
            let account: Arc<Account> = Arc::default();
            let (mut feed, mut feeder) = Feed::new(Doorbell::new(0), SessionKey { slot: 0, generation: 0 });
            assert!(matches!(feed.look(&at), Found::Nothing));
            assert!(feeder.give(Fed::Portion(portion(given_back, &account))).await.is_ok());
            assert!(matches!(feed.look(&at), Found::Portion { new: true }));
            if written > 0 {
                let (taken, _) = feed.take().unwrap();
                feed.put_back(taken, written);
            }
            feed.lay_aside();
            assert_eq!(account.bytes(), if is_held { 9 } else { 0 }, "{given_back:?} {written}");
            let goes_on = matches!(feed.look(&at), Found::Portion { new } if new == (written == 0));
            assert_eq!(goes_on, is_held);
            if !is_held {
                assert_eq!(feeder.asked().await.ok(), Some(at.clone()), "it is asked for again");
            }
        }
        // Who is still here when the socket takes bytes again goes on where it was.
        let account: Arc<Account> = Arc::default();
        let (mut feed, mut feeder) = Feed::new(Doorbell::new(0), SessionKey { slot: 0, generation: 0 });
        let shared = portion(GivenBack::Always, &account);
        assert!(matches!(feed.look(&at), Found::Nothing));
        assert!(feeder.give(Fed::Portion(shared.clone())).await.is_ok());
        let Found::Portion { .. } = feed.look(&at) else { panic!("it was given") };
        let (taken, _) = feed.take().unwrap();
        feed.put_back(taken, 4);
        feed.lay_aside();
        assert!(matches!(feed.look(&at), Found::Portion { new: false }));
        drop((feed, shared));
        assert_eq!(account.bytes(), 0);
    }
}
