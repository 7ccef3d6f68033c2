//! The client that checks: every metric exactly once, and those of one collector in the order in which they were sent.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use telecast::proto::frame::{Event, Opcode};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics::{MEASUREMENTS, collector_of};
use crate::peer::{Peer, PeerError};
use crate::{Arguments, Failure, usage};

/// After the last flush was sent: silence for so long is the end.
const SILENCE: Duration = Duration::from_secs(5);

/// What came.
#[derive(Default)]
pub(crate) struct Incoming {
    received: u64,
    missing: u64,
    repeated: u64,
    gaps: u64,
    foreign: u64,
    bytes: u64,
    latencies_us: Vec<u32>,
    /// CPU time of this thread.
    pub(crate) cpu: Duration,
}

impl Incoming {
    pub(crate) fn is_complete(&self, sent: u64) -> bool {
        self.received == sent && self.missing == 0 && self.repeated == 0 && self.gaps == 0
    }

    pub(crate) fn describe(&self) -> String {
        let Self { received, missing, repeated, gaps, foreign, bytes, .. } = self;
        let mut latencies = self.latencies_us.clone();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = ((latencies.len().saturating_sub(1)) as f64 * share) as usize;
            latencies.get(index).map_or(0.0, |us| f64::from(*us) / 1_000.0)
        };
        format!(
            "received  {received} metrics: {missing} missing, {repeated} repeated or out of order, {gaps} gaps announced, \
             {foreign} of other collectors; {bytes} bytes\nlatency   from collector to client: median {:.1} ms, 99 % {:.1} \
             ms, 99.9 % {:.1} ms, longest {:.1} ms",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}

/// The part of a message that matters here.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    collector: &'a str,
    #[serde(default, borrow)]
    metrics: Vec<Metric<'a>>,
}

#[derive(Deserialize)]
struct Metric<'a> {
    name: &'a str,
    fields: Fields,
}

#[derive(Deserialize)]
struct Fields {
    flush: Option<u64>,
    sent_us: Option<u64>,
}

/// Receives until everything that was sent is there, or nothing comes any more.
pub(crate) fn run(
    arguments: &Arguments,
    listening: mpsc::Sender<()>,
    was_sent: oneshot::Receiver<u64>,
) -> Result<Incoming, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut peer = Peer::connect(&arguments.clients).await?;
        // The welcome: from here on, everything comes.
        peer.next().await?;
        // The main thread waits for this, or has gone.
        let _ = listening.send(());
        drop(listening);
        let mut check = Check::new(arguments.collectors as usize);
        check.follow(&mut peer, was_sent).await?;
        check.incoming.cpu = usage::of_this_thread();
        Ok(check.incoming)
    })
}

struct Check {
    /// Metrics of each collector so far; the next one has this number.
    next: Vec<u64>,
    places: HashMap<&'static str, u64>,
    incoming: Incoming,
}

impl Check {
    fn new(collectors: usize) -> Self {
        let places = MEASUREMENTS.iter().zip(0..).map(|((name, ..), place)| (*name, place)).collect();
        Self { next: vec![0; collectors], places, incoming: Incoming::default() }
    }

    async fn follow(
        &mut self,
        peer: &mut Peer,
        mut was_sent: oneshot::Receiver<u64>,
    ) -> Result<(), PeerError> {
        let mut sent = None;
        loop {
            if sent.is_some_and(|sent| self.incoming.received + self.incoming.missing >= sent) {
                return Ok(());
            }
            let event = tokio::select! {
                told = &mut was_sent, if sent.is_none() => {
                    sent = Some(told.unwrap_or(0));
                    continue;
                }
                event = timeout(SILENCE, peer.next()) => event,
            };
            match event {
                Ok(Ok(Event::Ping(payload))) => peer.send(Opcode::Pong, &payload).await?,
                Ok(event) => self.take(&event?),
                Err(_) if sent.is_some() => return Ok(()),
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let Event::Text(text) = event else { return };
        self.incoming.bytes += text.len() as u64;
        let Ok(message) = serde_json::from_str::<Message<'_>>(text) else {
            self.incoming.foreign += 1;
            return;
        };
        match message.kind {
            "gap" => self.incoming.gaps += 1,
            "metrics" => message.metrics.iter().for_each(|metric| self.check(message.collector, metric)),
            _ => {}
        }
    }

    fn check(&mut self, collector: &str, metric: &Metric<'_>) {
        let next = collector_of(collector).and_then(|number| self.next.get_mut(number));
        let place = self.places.get(metric.name);
        let (Some(next), Some(place), Some(flush)) = (next, place, metric.fields.flush) else {
            self.incoming.foreign += 1;
            return;
        };
        let number = flush * MEASUREMENTS.len() as u64 + place;
        if number < *next {
            self.incoming.repeated += 1;
            return;
        }
        self.incoming.missing += number - *next;
        *next = number + 1;
        self.incoming.received += 1;
        if let Some(sent_us) = metric.fields.sent_us {
            let latency = unix_us().saturating_sub(sent_us);
            self.incoming.latencies_us.push(u32::try_from(latency).unwrap_or(u32::MAX));
        }
    }
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
