//! Message ids: what the log recognises a batch by that is sent again. Pure.
//!
//! Content alone does not tell a repeat from a value that returns: of open=1, 0, 1 within one second, the third batch equals the
//! first. So the id of a batch also says what it follows: equal batches have equal ids exactly if nothing was stored between
//! them.

use xxhash_rust::xxh3::Xxh3;

use crate::broker::Newest;
use crate::ingest::batch::Draft;
use crate::proto::channel::CollectorId;
use crate::proto::offset::Sequence;

/// What a batch is recognised by when it is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The request's own name (`Idempotency-Key`): the same name is the same batch, another one is another batch, whatever
    /// they hold.
    Key(std::sync::Arc<str>),
    /// Its content, if every line brought its own time: it repeats the newest batch that is stored of its collector, or is
    /// new. For what may be sent because an answer was lost: requests, and the first batch on a connection.
    Content,
    /// It follows another batch on its connection, and repeats nothing.
    New,
}

/// The id of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BatchId(String);

/// A hash of everything a batch holds, where equal batches are the same measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(u128);

impl Digest {
    /// `None` where a line had no time of its own: equal lines are then new measurements. It does not depend on how the lines of a
    /// measurement are cut into envelopes, which another node may do otherwise.
    pub(super) fn of(collector: &CollectorId, drafts: &[Draft]) -> Option<Self> {
        if !drafts.iter().all(|draft| draft.own_timestamps) {
            return None;
        }
        let mut hash = Xxh3::new();
        update(&mut hash, collector.as_str().as_bytes());
        let mut last = None;
        for draft in drafts {
            let measurement = &*draft.channel.measurement;
            if last.replace(measurement) == Some(measurement) {
                hash.update(b"\n");
            } else {
                // No byte of a line.
                hash.update(&[0xff]);
                update(&mut hash, measurement.as_bytes());
            }
            hash.update(&draft.lines);
        }
        Some(Self(hash.digest128()))
    }
}

impl BatchId {
    /// Of a request that names itself.
    pub(super) fn of_key(collector: &CollectorId, key: &str) -> Self {
        let mut hash = Xxh3::new();
        update(&mut hash, collector.as_str().as_bytes());
        update(&mut hash, key.as_bytes());
        Self(format!("k-{:032x}", hash.digest128()))
    }

    /// Of a batch behind the envelope at `previous`, the newest of its collector (0: there is none). Every node that takes the
    /// same batch in the same place gives it the same id.
    pub(super) fn following(digest: Digest, previous: Sequence) -> Self {
        Self(format!("c-{:032x}-{previous}", digest.0))
    }

    /// Of a batch that repeats nothing; `revision` and `sequence` are those of its first envelope's stamp. With a digest, it is
    /// recognised when it is sent again over another connection.
    pub(super) fn of_writer(digest: Option<Digest>, node: &str, revision: u64, sequence: u64) -> Self {
        Self(match digest {
            Some(digest) => format!("c-{:032x}-{node}-{revision}-{sequence}", digest.0),
            None => format!("n-{node}-{revision}-{sequence}"),
        })
    }

    /// Of the batch that the newest envelope belongs to, if it holds the same: published under the same id again, the log
    /// stores what it lacks of it.
    pub(super) fn repeated(digest: Digest, newest: &Newest) -> Option<Self> {
        let (batch, _index) = newest.message_id.rsplit_once('-')?;
        let same = batch.strip_prefix("c-")?.split_once('-')?.0 == format!("{:032x}", digest.0);
        same.then(|| Self(batch.to_owned()))
    }

    /// Of the envelope in this place of the batch.
    pub(super) fn envelope(&self, index: usize) -> String {
        format!("{}-{index}", self.0)
    }
}

/// Lengths keep ("ab", "c") and ("a", "bc") apart.
fn update(hash: &mut Xxh3, part: &[u8]) {
    hash.update(&(part.len() as u64).to_le_bytes());
    hash.update(part);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::channel::Channel;

    fn draft(measurement: &str, lines: &str, own_timestamps: bool) -> Draft {
        let channel = Channel::new(id("a"), measurement);
        Draft { channel, lines: Bytes::copy_from_slice(lines.as_bytes()), metrics: 1, own_timestamps }
    }

    fn id(text: &str) -> CollectorId {
        CollectorId::new(text).unwrap()
    }

    fn digest(collector: &str, drafts: &[Draft]) -> Digest {
        Digest::of(&id(collector), drafts).unwrap()
    }

    fn newest(message_id: String) -> Newest {
        Newest { sequence: 7, message_id }
    }

    #[test]
    fn digests_are_equal_exactly_for_batches_that_hold_the_same() {
        let [cpu, mem] = [draft("cpu", "cpu u=1 1", true), draft("mem", "mem u=1 1", true)];
        let both = [cpu.clone(), mem.clone()];
        assert_eq!(digest("a", &both), digest("a", &both.clone()));
        for other in [digest("b", &both), digest("a", &both[..1]), digest("a", &[mem.clone(), cpu.clone()])] {
            assert_ne!(digest("a", &both), other);
        }
        let whole = [draft("cpu", "cpu u=1 1\ncpu u=2 2", true), mem.clone()];
        let cut = [cpu.clone(), draft("cpu", "cpu u=2 2", true), mem];
        assert_eq!(digest("a", &whole), digest("a", &cut), "however it is cut into envelopes");
        let [split, joined] = [draft("cp", "ucpu u=1 1", true), draft("cpu", "cpu u=1 1", true)];
        assert_ne!(digest("a", &[split]), digest("a", &[joined]));
        assert_eq!(Digest::of(&id("a"), &[cpu, draft("mem", "mem u=1 1", false)]), None);
    }

    #[test]
    fn a_repeat_is_known_by_any_envelope_of_the_batch_and_by_nothing_else() {
        let this = digest("a", &[draft("cpu", "cpu u=1 1", true)]);
        let other = digest("a", &[draft("cpu", "cpu u=2 1", true)]);
        for batch in [BatchId::following(this, 41), BatchId::of_writer(Some(this), "node-1-x", 3, 9)] {
            for index in [0, 12] {
                let stored = newest(batch.envelope(index));
                assert_eq!(BatchId::repeated(this, &stored), Some(batch.clone()));
                assert_eq!(BatchId::repeated(other, &stored), None);
            }
        }
        for foreign in ["", "c-", "x", "c-0-0", "k-1-0", "n-node-1-2-0"] {
            assert_eq!(BatchId::repeated(this, &newest(foreign.to_owned())), None, "{foreign}");
        }
    }

    #[test]
    fn equal_batches_behind_different_ones_are_different() {
        let digest = digest("a", &[draft("cpu", "cpu u=1 1", true)]);
        assert_eq!(BatchId::following(digest, 4), BatchId::following(digest, 4));
        assert_ne!(BatchId::following(digest, 4), BatchId::following(digest, 6));
        for digest in [Some(digest), None] {
            let [one, two] = [1, 2].map(|sequence| BatchId::of_writer(digest, "n1", 7, sequence));
            assert_ne!(one, two);
        }
    }

    #[test]
    fn a_key_is_one_of_its_collector() {
        let [a, b] = [id("a"), id("b")];
        assert_eq!(BatchId::of_key(&a, "k"), BatchId::of_key(&a, "k"));
        assert_ne!(BatchId::of_key(&a, "k"), BatchId::of_key(&a, "l"));
        assert_ne!(BatchId::of_key(&a, "k"), BatchId::of_key(&b, "k"));
        assert_ne!(BatchId::of_key(&a, "k").envelope(0), BatchId::of_key(&a, "k").envelope(1));
    }
}
