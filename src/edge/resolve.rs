//! From what a client asks for (`from`) to a place in this edge's log.

use crate::broker::BrokerError;
use crate::edge::Shared;
use crate::edge::hub::Hub;
use crate::ops::clock::unix_ns;
use crate::ops::meters::ReplayOutcome;
use crate::proto::message::{From, GapReason};
use crate::proto::offset::{Offset, Shard};

/// Where a session begins, and what it has to be told first.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// After everything up to here; after the newest, if nothing is said.
    pub(crate) at: Option<Offset>,
    /// What the client asked for and will not get, from there to `at`.
    pub(crate) gap: Option<(Offset, GapReason)>,
    /// The client asked for whatever there is: what the log no longer holds is no loss.
    pub(crate) quiet: bool,
    /// How this is counted, if it is a resume.
    pub(crate) replay: Option<ReplayOutcome>,
    /// Where a part of the log is lost to this session, it wants the last values instead.
    pub(crate) snapshots: bool,
    /// What comes before everything else.
    pub(crate) first: First,
}

/// What a session begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// With what follows its place.
    Nothing,
    /// With the last values: its place is theirs.
    Snapshot,
    /// With the announcement that what follows its place is lost up to the last values, and these.
    Lost(GapReason),
}

impl Place {
    /// After the newest.
    pub(crate) fn newest() -> Self {
        Self { at: None, gap: None, quiet: false, replay: None, snapshots: false, first: First::Nothing }
    }

    /// After the newest, with the last values first.
    pub(crate) fn snapshot() -> Self {
        Self { snapshots: true, first: First::Snapshot, ..Self::newest() }
    }

    /// After `offset`, which this session has been at.
    pub(crate) fn at(offset: Offset) -> Self {
        Self { at: Some(offset), ..Self::newest() }
    }

    fn quietly_at(offset: Offset) -> Self {
        Self { quiet: true, replay: Some(ReplayOutcome::Recovered), ..Self::at(offset) }
    }
}

/// Finds the place of a session, which may want snapshots.
///
/// # Errors
/// When only the log could tell, and it does not answer.
pub(crate) async fn resolve(
    shared: &Shared,
    hub: &Hub,
    from: Option<From>,
    snapshots: bool,
) -> Result<Place, BrokerError> {
    let found = match from {
        None | Some(From::Latest) if snapshots => return Ok(Place::snapshot()),
        from => find(shared, hub, from).await?,
    };
    Ok(match found {
        // What the new log has says nothing of what the session knew: instead of all of it, it gets how things are.
        Place { gap: Some((from, reason)), .. } if snapshots => {
            let first = First::Lost(reason);
            Place { replay: found.replay, snapshots, first, ..Place::at(from) }
        }
        found => Place { snapshots, ..found },
    })
}

async fn find(shared: &Shared, hub: &Hub, from: Option<From>) -> Result<Place, BrokerError> {
    let head = hub.head();
    match from {
        None | Some(From::Latest) => Ok(Place::newest()),
        Some(From::Earliest) => Ok(Place::quietly_at(head.offset.beginning())),
        Some(From::Ago(span)) => {
            let since_ns = unix_ns().saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX));
            if let Some(offset) = hub.since(since_ns) {
                return Ok(Place::quietly_at((*offset).clone()));
            }
            let mut offset = (*head.offset).clone();
            for (shard, sequence) in offset.sequences.iter_mut().enumerate() {
                *sequence = shared.replays.last_before(Shard(shard as u16), since_ns, head.resets).await?;
            }
            Ok(Place::quietly_at(offset))
        }
        Some(From::Offset(offset)) => resume(shared, hub, offset).await,
    }
}

async fn resume(shared: &Shared, hub: &Hub, offset: Offset) -> Result<Place, BrokerError> {
    let head = hub.head().offset;
    let recovered = |offset| Place { replay: Some(ReplayOutcome::Recovered), ..Place::at(offset) };
    if hub.holds(&offset) {
        return Ok(recovered(offset));
    }
    let reset = |to| Place {
        gap: Some((offset.clone(), GapReason::Reset)),
        quiet: true,
        replay: Some(ReplayOutcome::Reset),
        ..Place::at(to)
    };
    if offset.epoch != head.epoch || offset.sequences.len() != head.sequences.len() {
        // Another log: all of this one is new to the client.
        return Ok(reset(head.beginning()));
    }
    // Ahead of this edge: another edge was faster, or the log has lost its newest part. Only the log knows.
    if shared.replays.ends_before(&offset, &head).await? {
        return Ok(reset((*head).clone()));
    }
    Ok(recovered(offset))
}
