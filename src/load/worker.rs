//! A thread that owns many clients: one poller, one read buffer, one heap of times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::account::Account;
use super::client::{Client, Surroundings};
use super::content::Marks;
use super::end::{End, Next};
use super::shared::{GLANCE, HANDSHAKE_TIMEOUT, Phase, Shared};
use super::tally::Tally;

/// Read buffer, in bytes: shared by all clients of the thread, since only one is read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Sockets told about at once.
const EVENTS_MAX: usize = 1_024;

/// How often silent servers are looked for.
const SILENCE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Worker {
    /// Its number among the threads.
    number: usize,
    shared: Arc<Shared>,
    poll: Poll,
    clients: Vec<Client>,
    /// Connections of each client so far, so that times set for an earlier one mean nothing.
    serials: Vec<u32>,
    times: BinaryHeap<Reverse<(Instant, usize, u32)>>,
    /// Clients with more to read than their turn allowed.
    unfinished: Vec<usize>,
    tally: Tally,
    marks: Marks,
    decided: u64,
    open: u64,
    churn_due: Option<Instant>,
    /// Whose turn it is to leave.
    churn_next: usize,
    silence_due: Instant,
    settled_due: Instant,
}

impl Worker {
    /// Makes the worker with this number, and its share of the clients; none connects before [`Worker::run`].
    pub(super) fn new(number: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let plan = &shared.plan;
        let now = Instant::now();
        // Slow clients are spread among the others, as they are in life: every so manyth.
        let slow = |client: usize| {
            let before = |client: usize| client * plan.slow / plan.sockets().max(1);
            before(client + 1) > before(client)
        };
        let mine: Vec<usize> = (number..plan.sockets()).step_by(plan.threads).collect();
        let times = mine.iter().enumerate().map(|(at, client)| {
            let after = Duration::from_secs_f64(*client as f64 / plan.connects_per_s);
            Reverse((now + after, at, 0))
        });
        Ok(Self {
            number,
            poll: Poll::new()?,
            serials: vec![0; mine.len()],
            times: times.collect(),
            clients: mine.iter().map(|client| Client::new(*client, slow(*client), now)).collect(),
            unfinished: Vec::new(),
            tally: Tally::new(),
            marks: Marks::new(),
            decided: 0,
            open: 0,
            churn_due: None,
            churn_next: 0,
            silence_due: now + SILENCE_INTERVAL,
            settled_due: now,
            shared,
        })
    }

    /// Works until the phase says that everybody leaves.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Ending {
                return Ok(self.end());
            }
            self.turn(phase, &mut events, &mut buffer)?;
        }
    }

    /// Waits for what is to be done next, and does it.
    fn turn(&mut self, phase: Phase, events: &mut Events, buffer: &mut [u8]) -> io::Result<()> {
        match self.poll.poll(events, Some(self.patience())) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for index in std::mem::take(&mut self.unfinished) {
            self.ready(index, buffer);
        }
        for event in &*events {
            let index = event.token().0;
            if event.is_read_closed() || event.is_error() {
                self.clients[index].hang_up();
            }
            self.ready(index, buffer);
        }
        let now = Instant::now();
        self.run_times(now);
        self.drop_silent(now);
        self.churn_due = if phase == Phase::Running { self.churn(now) } else { None };
        if phase == Phase::Settling && now >= self.settled_due {
            self.settled_due = now + GLANCE;
            self.count_settled();
        }
        self.tell();
        Ok(())
    }

    /// How long nothing has to be done if no socket is ready.
    fn patience(&self) -> Duration {
        if !self.unfinished.is_empty() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let due = self.times.peek().map(|Reverse((due, ..))| *due).into_iter().chain(self.churn_due).min();
        due.map_or(GLANCE, |due| due.saturating_duration_since(now).min(GLANCE))
    }

    fn ready(&mut self, index: usize, buffer: &mut [u8]) {
        let client = &mut self.clients[index];
        let was_open = client.is_open();
        let mut around = Surroundings { shared: &self.shared, tally: &mut self.tally, marks: &self.marks };
        let outcome = client.ready(&mut around, buffer);
        if !was_open && client.is_open() {
            self.open += 1;
            self.decided += u64::from(self.serials[index] == 1);
        }
        match outcome {
            Ok(false) => {}
            Ok(true) => self.unfinished.push(index),
            Err(end) => self.ended(index, end),
        }
    }

    /// Connects who is due, and gives up on handshakes that take too long.
    fn run_times(&mut self, now: Instant) {
        while let Some(Reverse((due, index, serial))) = self.times.peek().copied()
            && due <= now
        {
            self.times.pop();
            if serial != self.serials[index] {
                continue;
            }
            let client = &mut self.clients[index];
            if client.is_connecting() {
                self.ended(index, End::HandshakeTimeout);
            } else if !client.is_open() && client.stopped.is_none() {
                self.serials[index] += 1;
                self.times.push(Reverse((now + HANDSHAKE_TIMEOUT, index, self.serials[index])));
                if let Err(end) = client.connect(&self.shared, self.poll.registry(), Token(index)) {
                    self.ended(index, end);
                }
            }
        }
    }

    /// Whoever has been in comes back, if that is of any use; whoever was never let in has got the answer.
    fn ended(&mut self, index: usize, end: End) {
        let client = &mut self.clients[index];
        self.open -= u64::from(client.disconnect(end));
        if !client.was_open() {
            self.decided += 1;
            *self.tally.refused.entry(end.label()).or_default() += 1;
            client.stopped = Some(end);
            return;
        }
        *self.tally.ends.entry(end.label()).or_default() += 1;
        match end.next(client.failures) {
            Next::Stop => client.stopped = Some(end),
            Next::Again(pause) => {
                client.failures += 1;
                // The time set for this connection's handshake means nothing any more.
                self.serials[index] += 1;
                // Who was sent away together shall not come back together.
                let pause = pause.mul_f64(1.0 + fastrand::f64() / 4.0);
                self.times.push(Reverse((Instant::now() + pause, index, self.serials[index])));
            }
        }
    }

    /// Lets leave who has to by now; says when the next one has to.
    fn churn(&mut self, now: Instant) -> Option<Instant> {
        let plan = &self.shared.plan;
        if plan.clients == 0 || self.clients.is_empty() {
            // Nobody can leave: there is no rate, and no time between two departures.
            return None;
        }
        let rate = plan.churn?.per_second(plan.clients) * self.clients.len() as f64 / plan.sockets() as f64;
        let interval = Duration::from_secs_f64(1.0 / rate);
        let mut due = self.churn_due.unwrap_or(now + interval);
        // After a pause of the machine, who should have left meanwhile does not leave all at once.
        due = due.max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        while due <= now {
            due += interval;
            let count = self.clients.len();
            let found = (0..count).map(|step| (self.churn_next + step) % count).find(|index| {
                let client = &self.clients[*index];
                client.is_open() && !client.is_slow()
            });
            let Some(index) = found else { break };
            self.churn_next = index + 1;
            self.ended(index, End::Churn);
        }
        Some(due)
    }

    fn drop_silent(&mut self, now: Instant) {
        if now < self.silence_due {
            return;
        }
        self.silence_due = now + SILENCE_INTERVAL;
        for index in 0..self.clients.len() {
            if self.clients[index].is_silent(now) {
                self.ended(index, End::Silent);
            }
        }
    }

    fn count_settled(&self) {
        if !self.shared.published_is_final.load(Ordering::Acquire) {
            return;
        }
        let published = self.shared.published_counts();
        let settled = self.clients.iter().filter(|client| client.is_settled(&published, &self.shared.asked));
        self.board().settled.store(settled.count() as u64, Ordering::Relaxed);
    }

    fn tell(&self) {
        let board = self.board();
        board.deliveries.store(self.tally.deliveries, Ordering::Relaxed);
        board.bytes.store(self.tally.bytes, Ordering::Relaxed);
        board.decided.store(self.decided, Ordering::Relaxed);
        board.open.store(self.open, Ordering::Relaxed);
    }

    fn board(&self) -> &super::shared::Board {
        &self.shared.boards[self.number]
    }

    /// Everybody leaves, and what they have got is added up.
    fn end(mut self) -> Tally {
        // Collectors that are still sending have not been waited for: then only what was skipped counts as missing.
        let is_final = self.shared.published_is_final.load(Ordering::Acquire);
        let published = if is_final { self.shared.published_counts() } else { Vec::new() };
        let doubts = self.shared.doubts();
        for client in self.clients {
            let (is_open, was_open, is_slow) = (client.is_open(), client.was_open(), client.is_slow());
            match (is_open, is_slow) {
                (true, true) => self.tally.slow_connected += 1,
                (true, false) => self.tally.connected += 1,
                (false, _) if was_open => {
                    let reason = client.stopped.map_or_else(|| "not back yet".to_owned(), End::label);
                    *self.tally.gone.entry(reason).or_default() += 1;
                }
                (false, _) => {}
            }
            let account = client.leave();
            if was_open && !is_slow {
                let asked = &self.shared.asked;
                let close = if is_open { Account::close } else { Account::close_away };
                self.tally.missing.merge(close(account, &published, asked, &doubts));
            }
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::account::Missing;
    use crate::load::node::{Node, Peer};
    use crate::load::plan::{Churn, Plan, Publishing};
    use crate::load::target::Target;

    /// Longer than anything here takes, shorter than the silence after which a server counts as gone.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Rig {
        worker: Worker,
        events: Events,
        buffer: Vec<u8>,
    }

    impl Rig {
        fn new(node: &Node, plan: Plan) -> Self {
            let worker = Worker::new(0, node.shared(plan)).unwrap();
            Self { worker, events: Events::with_capacity(8), buffer: vec![0; BUFFER_BYTES] }
        }

        fn turn(&mut self, phase: Phase) {
            self.worker.turn(phase, &mut self.events, &mut self.buffer).unwrap();
        }

        /// Lets the next client connect, and welcomes it.
        fn welcome(&mut self, node: &Node) -> Peer {
            let open = self.worker.open;
            let mut peer = node.accept(|| self.turn(Phase::Connecting));
            peer.welcome();
            self.until(|worker| worker.open > open);
            peer
        }

        fn until(&mut self, done: impl Fn(&Worker) -> bool) {
            let begun = Instant::now();
            while !done(&self.worker) {
                assert!(begun.elapsed() < PATIENCE, "it does not happen");
                self.turn(Phase::Connecting);
            }
        }
    }

    /// Data and the end of the connection lie in the socket before the poller is asked: it tells of both at once, and the
    /// read that gets the data is a short one.
    #[test]
    fn an_end_that_comes_with_the_last_data_is_noticed() {
        let node = Node::listen();
        let mut rig = Rig::new(&node, node.plan(1));
        let mut peer = rig.welcome(&node);
        peer.say(r#"{"type":"heartbeat","offset":"1.2"}"#);
        peer.hang_up();
        rig.until(|worker| worker.open == 0);
        assert_eq!(rig.worker.tally.ends, [("connection lost".to_owned(), 1)].into());
    }

    /// A slow client never reads, so the poller's word is all it has: also when it comes with the handshake.
    #[test]
    fn a_slow_client_notices_an_end_that_comes_with_its_handshake() {
        let node = Node::listen();
        let mut rig = Rig::new(&node, Plan { slow: 1, ..node.plan(0) });
        node.accept(|| rig.turn(Phase::Connecting)).hang_up();
        rig.until(|worker| !worker.tally.ends.is_empty());
        assert_eq!((rig.worker.open, rig.worker.tally.ends["connection lost"]), (0, 1));
    }

    #[test]
    fn without_clients_nobody_leaves() {
        let node = Node::listen();
        for (clients, threads) in [(0, 1), (1, 2)] {
            let shared = node.shared(Plan { churn: Some(Churn::Share(0.05)), threads, ..node.plan(clients) });
            let mut worker = Worker::new(threads - 1, shared).unwrap();
            assert_eq!(worker.churn(Instant::now()), None, "{clients} clients, thread {threads}");
        }
    }

    #[test]
    fn who_leaves_rarely_leaves_at_a_time_that_clocks_know() {
        let node = Node::listen();
        let churn = "0.001%".parse().ok();
        let mut rig = Rig::new(&node, Plan { churn, connects_per_s: 0.001, ..node.plan(1) });
        assert!(rig.worker.churn(Instant::now()).is_some());
    }

    #[test]
    fn only_who_is_there_at_the_end_can_have_lost_its_last_messages() {
        let node = Node::listen();
        let target = Target::of_collectors(&node.address().to_string()).unwrap();
        let publishing = Publishing { target, collectors: 1, messages_per_s: 1.0, message_bytes: 100 };
        let mut rig = Rig::new(&node, Plan { publishing: Some(publishing), ..node.plan(2) });
        let (leaves, _stays) = (rig.welcome(&node), rig.welcome(&node));
        leaves.hang_up();
        rig.until(|worker| worker.open == 1);
        rig.worker.shared.published[0].store(3, Ordering::Release);
        rig.worker.shared.published_is_final.store(true, Ordering::Release);
        let tally = rig.worker.end();
        assert_eq!((tally.connected, tally.gone["not back yet"]), (1, 1));
        assert_eq!(tally.missing, Missing { away: 3, silent: 3, ..Missing::default() });
    }
}
