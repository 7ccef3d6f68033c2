//! Message ids: what the log recognises a batch by that is sent again.

use xxhash_rust::xxh3::Xxh3;

use crate::ingest::batch::Draft;
use crate::proto::envelope::Stamp;

/// The id of one envelope, by the strongest identity it has:
///
/// 1. every line brought its own time: its content, so that a collector's repeated flush is stored once;
/// 2. the request has a key: the key and the envelope's place in the request;
/// 3. otherwise equal lines are new measurements, and only this writer's own repeats are recognised.
pub(super) fn message_id(
    draft: &Draft,
    index: usize,
    key: Option<&str>,
    stamp: &Stamp,
    node: &str,
) -> String {
    let collector = draft.channel.collector.as_str();
    let hash = |parts: [&[u8]; 3]| {
        let mut hash = Xxh3::new();
        for part in parts {
            // Lengths keep ("ab", "c") and ("a", "bc") apart.
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.digest128()
    };
    if draft.own_timestamps {
        let content = hash([collector.as_bytes(), draft.channel.measurement.as_bytes(), &draft.lines]);
        return format!("c-{content:032x}");
    }
    match key {
        Some(key) => {
            let request = hash([collector.as_bytes(), key.as_bytes(), &(index as u64).to_le_bytes()]);
            format!("k-{request:032x}")
        }
        None => format!("n-{node}-{}-{}", stamp.revision, stamp.sequence),
    }
}
