//! What a sender does when answers are lost, nodes die and others take over, against a model: every batch it means is in the log
//! once, in its order, whatever it equals.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A batch as its sender means it: few values, so that they return again and again, and all of one second.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    value: u8,
    measurements: usize,
}

/// How the sender names the batch.
#[derive(Clone, Copy, Debug)]
enum By {
    /// A request without a name.
    Content,
    /// A request with a key of its own.
    Key,
    /// A message on a socket that stays open, which is sent once.
    Socket,
}

/// What becomes of an attempt after which the sender has no answer.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// Stored, and the answer to the sender is lost.
    AnswerLost,
    /// Stored by a node that then dies.
    NodeDies,
    /// The node dies when the log has the first envelope.
    NodeDiesHalfWay,
    /// The log has it, but the node does not hear so until after the sender has gone elsewhere.
    AcknowledgementLate,
    /// The node does not reach the log until after the sender has given up.
    LogAway,
}

#[derive(Clone, Debug)]
struct Step {
    batch: Batch,
    by: By,
    failures: Vec<(usize, Failure)>,
    node: usize,
    /// The log's acknowledgement of the last attempt is lost between log and node.
    acknowledgement_lost: bool,
}

const MEASUREMENTS: [&str; 3] = ["door", "lock", "window"];

impl Batch {
    fn drafts(&self) -> Vec<Draft> {
        let lines = |name: &&str| draft("a", name, &format!("{name} v={} 1", self.value), true);
        MEASUREMENTS[..self.measurements].iter().map(lines).collect()
    }
}

/// Two nodes on one log, which die and are replaced.
struct Cluster {
    nodes: [Bench; 2],
}

impl Cluster {
    fn new() -> Self {
        let one = bench(settings());
        Self { nodes: [one.peer(), one] }
    }

    async fn submit(&self, node: usize, batch: &Batch, identity: Identity) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        let grant = Budget::new(1 << 20, metrics::Gauge::noop()).grant(1).await;
        let drafts = batch.drafts();
        let job = Job { drafts, received_ns: 5, identity, grant, done: Some(done), open: None };
        self.nodes[node].ingest.writers.submit(&id("a"), job).unwrap();
        outcome
    }

    /// The writers' memory is gone, and so is what waits.
    async fn replace(&mut self, node: usize) {
        let peer = self.nodes[node].peer();
        let dead = std::mem::replace(&mut self.nodes[node], peer);
        dead.ingest.writers.finish(Duration::ZERO).await;
    }

    async fn fail(&mut self, node: usize, failure: Failure, batch: &Batch, identity: Identity) {
        match failure {
            Failure::AnswerLost => {
                self.submit(node, batch, identity).await.await.unwrap();
            }
            Failure::NodeDies => {
                self.submit(node, batch, identity).await.await.unwrap();
                self.replace(node).await;
            }
            Failure::NodeDiesHalfWay => {
                self.fail_begun(node, Mood::Partial, batch, identity).await;
                self.replace(node).await;
            }
            Failure::AcknowledgementLate => {
                self.fail_begun(node, Mood::Forgetful, batch, identity).await;
                self.nodes[node].broker.set(Mood::Well);
            }
            Failure::LogAway => {
                self.nodes[node].broker.set(Mood::Away);
                let outcome = self.submit(node, batch, identity).await;
                tokio::time::sleep(Duration::from_secs(10)).await;
                drop(outcome);
                tokio::task::yield_now().await;
                self.nodes[node].broker.set(Mood::Well);
            }
        }
    }

    /// Returns when the log has been given the batch, and nobody waits for it any more.
    async fn fail_begun(&self, node: usize, mood: Mood, batch: &Batch, identity: Identity) {
        let broker = &self.nodes[node].broker;
        broker.set(mood);
        let before = broker.published();
        let outcome = self.submit(node, batch, identity).await;
        broker.begun(before + 1).await;
        drop(outcome);
    }
}

fn failure() -> impl Strategy<Value = Failure> {
    use Failure::*;
    prop_oneof![
        Just(AnswerLost),
        Just(NodeDies),
        Just(NodeDiesHalfWay),
        Just(AcknowledgementLate),
        Just(LogAway)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let batch = (0..2u8, 1..=3usize).prop_map(|(value, measurements)| Batch { value, measurements });
    let by = prop_oneof![3 => Just(By::Content), 1 => Just(By::Key), 1 => Just(By::Socket)];
    let failures = prop::collection::vec((0..2usize, failure()), 0..3);
    (batch, by, failures, 0..2usize, any::<bool>()).prop_map(
        |(batch, by, failures, node, acknowledgement_lost)| {
            // What is sent once has no second attempt.
            let failures = if matches!(by, By::Socket) { Vec::new() } else { failures };
            Step { batch, by, failures, node, acknowledgement_lost }
        },
    )
}

/// The log as it should be: what repeats the newest batch, or has a key that was stored, is not in it again.
#[derive(Default)]
struct Model {
    stored: Vec<Batch>,
    newest_by_content: bool,
    keys: HashSet<usize>,
}

impl Model {
    fn take(&mut self, step: &Step, number: usize) {
        let is_repeat = match step.by {
            By::Content => self.newest_by_content && self.stored.last() == Some(&step.batch),
            By::Key => !self.keys.insert(number),
            By::Socket => false,
        };
        if !is_repeat {
            self.stored.push(step.batch.clone());
            self.newest_by_content = !matches!(step.by, By::Key);
        }
    }

    fn lines(&self) -> Vec<String> {
        let drafts = self.stored.iter().flat_map(Batch::drafts);
        drafts.map(|draft| String::from_utf8(draft.lines.to_vec()).unwrap()).collect()
    }
}

async fn play(steps: &[Step]) -> (Vec<String>, Vec<String>) {
    let mut cluster = Cluster::new();
    let mut model = Model::default();
    for (number, step) in steps.iter().enumerate() {
        let identity = match step.by {
            By::Content => Identity::Content,
            By::Key => Identity::Key(format!("key-{number}").into()),
            By::Socket => Identity::New,
        };
        for (node, failure) in &step.failures {
            cluster.fail(*node, *failure, &step.batch, identity.clone()).await;
        }
        let broker = cluster.nodes[step.node].broker.clone();
        let before = broker.published();
        if step.acknowledgement_lost {
            broker.set(Mood::Forgetful);
        }
        let outcome = cluster.submit(step.node, &step.batch, identity).await;
        if step.acknowledgement_lost {
            broker.begun(before + 1).await;
            broker.set(Mood::Well);
        }
        assert_eq!(outcome.await, Ok(Outcome::Stored));
        model.take(step, number);
    }
    // What nobody waited for any more has its time to end.
    tokio::time::sleep(Duration::from_secs(10)).await;
    (cluster.nodes[0].broker.lines().await, model.lines())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_sent_again_is_stored_once_and_what_returns_is_stored_again(
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (stored, expected) = runtime.block_on(play(&steps));
        prop_assert_eq!(stored, expected);
    }
}
