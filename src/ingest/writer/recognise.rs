//! Whether a batch repeats what the log has, asked before it is stamped.

use std::future::pending;

use crate::broker::Newest;
use crate::ingest::storing::Underway;
use crate::ingest::writer::Job;
use crate::ingest::writer::identity::{BatchId, Digest, Identity};
use crate::ingest::writer::publish::{Writer, backoff};

/// Why a batch got no id. Nothing of it is stored.
pub(super) enum Unidentified {
    /// The request that waited for it has gone: as if it had been withdrawn from the queue.
    Withdrawn,
    /// The node is out of time.
    Abandoned,
}

impl Writer {
    /// The id of a batch, from what it is recognised by and from what the log holds.
    pub(super) async fn identify(&self, underway: &Underway, job: &mut Job) -> Result<BatchId, Unidentified> {
        if job.done.as_ref().is_some_and(|done| done.is_closed()) {
            return Err(Unidentified::Withdrawn);
        }
        let digest = match &job.identity {
            Identity::Key(key) => return Ok(BatchId::of_key(&self.collector, key)),
            Identity::Content | Identity::New => Digest::of(&self.collector, &job.drafts),
        };
        let (Some(digest), Identity::Content) = (digest, &job.identity) else {
            return Ok(BatchId::of_writer(digest, &self.shared.node.id, self.revision, self.sequence + 1));
        };
        let newest = self.newest(underway, job).await?;
        let repeated = newest.as_ref().and_then(|newest| BatchId::repeated(digest, newest));
        Ok(repeated.unwrap_or_else(|| {
            // Where retention took everything, what this writer stored last stands in for it.
            let previous = newest.map_or(self.last_stored, |newest| newest.sequence);
            BatchId::following(digest, previous)
        }))
    }

    /// Asks until the log answers. Other nodes may have stored something of this collector, so no memory of this one will do.
    async fn newest(&self, underway: &Underway, job: &mut Job) -> Result<Option<Newest>, Unidentified> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let ask_and_pause = async {
                match self.shared.broker.newest(self.shard, &self.collector).await {
                    Ok(newest) => Some(newest),
                    Err(error) => {
                        self.retried(underway, attempt, job.drafts.len(), &error);
                        tokio::time::sleep(backoff(attempt)).await;
                        None
                    }
                }
            };
            let caller_gone = async {
                match &mut job.done {
                    Some(done) => done.closed().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // First: a sender that has gone may have stored the batch elsewhere by now, and others after it.
                biased;
                () = caller_gone => return Err(Unidentified::Withdrawn),
                answer = ask_and_pause => if let Some(newest) = answer {
                    return Ok(newest);
                },
                () = self.shared.abandoned.cancelled() => return Err(Unidentified::Abandoned),
            }
        }
    }
}
