//! A client that follows for the whole run, over as many connections as it takes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::ledger::{Ledger, Then, Truth, WISHES};
use crate::link::{Link, Parameters, Piece, Transport};

/// Between two attempts to connect, in milliseconds: short, so that a storm of clients comes back together.
const PAUSE_MS: std::ops::Range<u64> = 50..500;
/// Messages after which a client may leave by itself.
const STAY_MESSAGES: usize = 2_000;
/// How long one that leaves by itself stays away at most, in milliseconds.
const AWAY_MS_MAX: u64 = 8_000;
/// Looks at what is wanted in the end so often while nothing comes.
const GLANCE: Duration = Duration::from_millis(500);

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub transport: Transport,
    pub wish: usize,
    pub influx: bool,
    pub snapshot: bool,
    /// Milliseconds; 0 for every value.
    pub interval: u64,
}

impl Wish {
    fn parameters(&self) -> Parameters {
        let mut all = WISHES[self.wish].0.to_owned();
        if self.influx {
            all.push_str("&format=influx");
        }
        if self.snapshot {
            all.push_str("&snapshot=true");
        }
        if self.interval > 0 {
            let _ = write!(all, "&interval={}", self.interval);
        }
        // Whoever wants every value, and not the last ones first, wants those before it was there too.
        Parameters { all, begin: if self.interval > 0 || self.snapshot { "" } else { "&from=earliest" } }
    }
}

/// What all clients share.
pub struct Surroundings {
    pub http: reqwest::Client,
    /// Where they all connect.
    pub address: SocketAddr,
}

/// Follows until everything has come that was sent, or until `deadline`.
pub async fn follow(
    surroundings: Arc<Surroundings>,
    wish: Wish,
    mut rng: Rng,
    mut truth: watch::Receiver<Option<(Truth, Instant)>>,
) -> Ledger {
    let mut ledger = Ledger::new(wish.wish, wish.interval > 0, wish.snapshot);
    let parameters = wish.parameters();
    loop {
        let Surroundings { http, address } = &*surroundings;
        let link = Link::open(http, wish.transport, *address, &parameters, ledger.at.as_ref()).await;
        let mut pause = rng.u64(PAUSE_MS);
        match link {
            Ok(mut link) => {
                ledger.totals.connections += 1;
                let stay = rng.usize(STAY_MESSAGES / 20..STAY_MESSAGES);
                let left = visit(&mut link, &mut ledger, stay, &mut truth).await;
                check_last_id(&link, &mut ledger);
                match left {
                    Left::Done => return ledger,
                    Left::Bored => pause = rng.u64(..AWAY_MS_MAX),
                    Left::Sent(after) => pause = after,
                    Left::Cut => {}
                }
            }
            Err(_) => ledger.totals.refusals += 1,
        }
        if is_over(&ledger, &truth) {
            return ledger;
        }
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Why a client is not connected any more.
enum Left {
    /// Everything has come, or never will.
    Done,
    /// It wanted to.
    Bored,
    /// It was asked to, and to come back after so many milliseconds.
    Sent(u64),
    /// The connection ended.
    Cut,
}

async fn visit(
    link: &mut Link,
    ledger: &mut Ledger,
    stay: usize,
    truth: &mut watch::Receiver<Option<(Truth, Instant)>>,
) -> Left {
    let mut sent = None;
    for _ in 0..stay {
        let piece = {
            let at = ledger.at.clone();
            let mut next = std::pin::pin!(link.next(at.as_ref()));
            loop {
                tokio::select! {
                    piece = &mut next => break piece,
                    () = sleep(GLANCE) => if is_over(ledger, truth) { return Left::Done },
                }
            }
        };
        match piece {
            Ok(Piece::Message(text)) => match ledger.take(&text) {
                Then::Nothing => {}
                Then::Leave(after) => sent = Some(after),
            },
            Ok(Piece::Next(next)) => ledger.polled(&next),
            Err(_) => return sent.map_or(Left::Cut, Left::Sent),
        }
    }
    // Polls end whenever they are answered; what is left of an answer would come again.
    Left::Bored
}

/// Whether there is nothing to wait for any more.
fn is_over(ledger: &Ledger, truth: &watch::Receiver<Option<(Truth, Instant)>>) -> bool {
    let truth = truth.borrow();
    truth.as_ref().is_some_and(|(truth, deadline)| ledger.is_complete(truth) || Instant::now() > *deadline)
}

/// What a browser knows is where the client is.
fn check_last_id(link: &Link, ledger: &mut Ledger) {
    if let (Some(id), Some(at)) = (link.last_event_id(), &ledger.at)
        && at.token() != id
    {
        ledger.faults.push(format!("the last event's id is {id}, the last offset {at}"));
    }
}
