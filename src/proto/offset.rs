//! Places in the log, and the opaque token that clients carry.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smallvec::SmallVec;

/// One of the log's streams, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u16);

/// A position within one shard. The first envelope has sequence 1; 0 is before everything.
pub type Sequence = u64;

/// Identity of the log's incarnation, from the streams' creation. Offsets compare only within one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a whole log, from the epochs of its shards in order: a log is another one as soon as any of its
    /// shards is, or there are more or fewer of them.
    pub fn combine(shards: &[Self]) -> Self {
        if let [only] = shards {
            return *only;
        }
        let bytes: Vec<u8> = shards.iter().flat_map(|epoch| epoch.0.to_be_bytes()).collect();
        Self(xxhash_rust::xxh3::xxh3_64(&bytes))
    }
}

/// Most shards a log may have. A token then has at most (14 + 64 × 10) × 4/3 = 872 characters, in practice below 400.
pub const SHARDS_MAX: u16 = 64;

/// A place in the log: everything up to and including these sequences has been seen. Comparable only within one epoch:
/// a new epoch means the old history is gone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Offset {
    /// The incarnation the sequences belong to.
    pub epoch: Epoch,
    /// The last sequence seen of each shard, by shard number.
    pub sequences: SmallVec<[Sequence; 2]>,
}

/// Why a token is no offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    /// Not written by any Telecast.
    #[error("this is not an offset token: pass one exactly as a message gave it")]
    Malformed,
    /// Written by a Telecast, it seems, and cut off or changed on its way.
    #[error("this offset token was damaged on its way: pass it exactly as a message gave it")]
    Damaged,
    /// Written by a later version.
    #[error("this offset token has version {0}, which this node does not know")]
    Version(u8),
}

const VERSION: u8 = 1;
/// Characters of a token that no other text of `from` has so many of: those of the version and the epoch.
const LIKE_OURS_CHARACTERS_MIN: usize = 12;

impl Offset {
    /// The place before everything in `epoch`.
    pub fn start(epoch: Epoch, shards: u16) -> Self {
        Self { epoch, sequences: SmallVec::from_elem(0, usize::from(shards)) }
    }

    /// The place before everything in the same log.
    pub fn beginning(&self) -> Self {
        Self { epoch: self.epoch, sequences: SmallVec::from_elem(0, self.sequences.len()) }
    }

    /// The shards of its log.
    pub fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.sequences.len() as u16).map(Shard)
    }

    /// The last sequence seen of `shard`; 0 for a shard this offset does not know.
    pub fn sequence(&self, shard: Shard) -> Sequence {
        self.sequences.get(usize::from(shard.0)).copied().unwrap_or(0)
    }

    /// The same place, with `shard` moved to `sequence`.
    pub fn with(&self, shard: Shard, sequence: Sequence) -> Self {
        let mut moved = self.clone();
        if let Some(slot) = moved.sequences.get_mut(usize::from(shard.0)) {
            *slot = sequence;
        }
        moved
    }

    /// Whether nothing lies between this place and `other`, on any shard, that this place has and `other` has not.
    pub fn is_at_or_before(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.sequences.len() == other.sequences.len()
            && self.sequences.iter().zip(&other.sequences).all(|(mine, theirs)| mine <= theirs)
    }

    /// The place that has everything this place and `other`, of the same epoch, have.
    pub fn latest_of(&self, other: &Self) -> Self {
        self.combined(other, Ord::max)
    }

    /// The place that has only what both this place and `other`, of the same epoch, have.
    pub fn earliest_of(&self, other: &Self) -> Self {
        self.combined(other, Ord::min)
    }

    fn combined(&self, other: &Self, choose: impl Fn(Sequence, Sequence) -> Sequence) -> Self {
        let sequences = self.sequences.iter().zip(&other.sequences);
        let sequences = sequences.map(|(mine, theirs)| choose(*mine, *theirs)).collect();
        Self { epoch: self.epoch, sequences }
    }

    /// How many positions lie behind this place, up to and including `other`; none where `other` is not ahead, or belongs to
    /// another log.
    pub fn positions_to(&self, other: &Self) -> u64 {
        if self.epoch != other.epoch {
            return 0;
        }
        let ahead =
            self.sequences.iter().zip(&other.sequences).map(|(mine, theirs)| theirs.saturating_sub(*mine));
        ahead.fold(0, u64::saturating_add)
    }

    /// The opaque, URL-safe token: version, epoch, shard count, sequences (LEB128), and a checksum so that a damaged
    /// token is refused instead of resuming somewhere else. At most 32 characters with one shard.
    pub fn token(&self) -> String {
        let mut bytes: SmallVec<[u8; 64]> = SmallVec::new();
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        push_varint(&mut bytes, self.sequences.len() as u64);
        for sequence in &self.sequences {
            push_varint(&mut bytes, *sequence);
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        URL_SAFE_NO_PAD.encode(&bytes)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token())
    }
}

impl FromStr for Offset {
    type Err = OffsetError;

    fn from_str(token: &str) -> Result<Self, OffsetError> {
        // No token is longer than this; nothing larger is decoded at all.
        if token.len() > 1024 {
            return Err(OffsetError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| unreadable(token))?;
        let version = *bytes.first().ok_or(OffsetError::Malformed)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(OffsetError::Malformed)?;
        if checksum(body) != *sum {
            return Err(unreadable(token));
        }
        if version != VERSION {
            return Err(OffsetError::Version(version));
        }
        let (epoch, mut rest) = body[1..].split_first_chunk::<8>().ok_or(OffsetError::Malformed)?;
        let shards = take_varint(&mut rest)?;
        if shards == 0 || shards > u64::from(SHARDS_MAX) {
            return Err(OffsetError::Malformed);
        }
        let sequences = (0..shards).map(|_| take_varint(&mut rest)).collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(OffsetError::Malformed);
        }
        Ok(Self { epoch: Epoch(u64::from_be_bytes(*epoch)), sequences })
    }
}

/// What is wrong with a text that is no token: whoever cut a token off is told something else than whoever wrote a date.
fn unreadable(token: &str) -> OffsetError {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let version = token.get(..4).and_then(|start| URL_SAFE_NO_PAD.decode(start).ok()?.first().copied());
    let ours = version == Some(VERSION) && token.len() >= LIKE_OURS_CHARACTERS_MIN;
    if ours && token.bytes().all(alphabet) { OffsetError::Damaged } else { OffsetError::Malformed }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (xxhash_rust::xxh3::xxh3_64(bytes) as u32).to_be_bytes()
}

fn push_varint(bytes: &mut SmallVec<[u8; 64]>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, OffsetError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(OffsetError::Malformed)?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(OffsetError::Malformed);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(OffsetError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_round_trip(epoch: u64, sequences in prop::collection::vec(any::<u64>(), 1..=64)) {
            let offset = Offset { epoch: Epoch(epoch), sequences: sequences.into_iter().collect() };
            prop_assert_eq!(offset.token().parse::<Offset>(), Ok(offset));
        }

        #[test]
        fn one_shard_fits_in_32_bytes(epoch: u64, sequence: u64) {
            let token = Offset { epoch: Epoch(epoch), sequences: [sequence].into_iter().collect() }.token();
            prop_assert!(token.len() <= 32, "{} has {} bytes", token, token.len());
        }

        #[test]
        fn garbage_is_refused_without_panic(token in ".{0,80}") {
            prop_assert!(token.parse::<Offset>().is_err());
        }

        #[test]
        fn a_token_that_was_cut_off_is_refused(sequences in prop::collection::vec(any::<u64>(), 1..=64), keep in 0.0..1.0) {
            let token = Offset { epoch: Epoch(7), sequences: sequences.into_iter().collect() }.token();
            let cut = &token[..(token.len() as f64 * keep) as usize];
            prop_assert!(cut.parse::<Offset>().is_err(), "{cut} of {token}");
        }

        /// Whoever can compute the checksum can write any inside: it is read within its bounds, or refused.
        #[test]
        fn any_inside_with_a_good_checksum_is_refused_or_a_place(mut bytes in prop::collection::vec(any::<u8>(), 0..700), like_ours: bool) {
            if like_ours && let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            let sum = checksum(&bytes);
            bytes.extend_from_slice(&sum);
            if let Ok(offset) = URL_SAFE_NO_PAD.encode(&bytes).parse::<Offset>() {
                prop_assert!((1..=usize::from(SHARDS_MAX)).contains(&offset.sequences.len()));
                prop_assert_eq!(offset.token().parse(), Ok(offset));
            }
        }

        #[test]
        fn a_flipped_bit_never_resumes_elsewhere(sequence in 0u64..1 << 40, bit in 0usize..150) {
            let offset = Offset { epoch: Epoch(7), sequences: [sequence].into_iter().collect() };
            let mut bytes = offset.token().into_bytes();
            let at = bit % (bytes.len() * 7);
            bytes[at / 7] ^= 1 << (at % 7);
            if let Ok(damaged) = String::from_utf8(bytes)
                && let Ok(parsed) = damaged.parse::<Offset>()
            {
                // The last character holds bits that base64 does not use.
                prop_assert_eq!(parsed, offset);
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let token = Offset::start(Epoch(7), 1).with(Shard(0), 5).token();
        let swapped = token.replace(token.chars().last().unwrap(), "-");
        let newer = |body: &[u8]| URL_SAFE_NO_PAD.encode([body, &checksum(body)].concat());
        for (token, error) in [
            (swapped.as_str(), OffsetError::Damaged),
            (&token[..token.len() - 2], OffsetError::Damaged),
            ("", OffsetError::Malformed),
            ("yesterday", OffsetError::Malformed),
            (newer(&[2, 1, 2, 3]).as_str(), OffsetError::Version(2)),
            ("A".repeat(100_000).as_str(), OffsetError::Malformed),
        ] {
            assert_eq!(token.parse::<Offset>(), Err(error), "{token:.40}");
        }
    }
}
