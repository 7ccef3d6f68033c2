//! What a message did, told to the meters, the registry and (rarely) the log.

use axum::http::HeaderValue;
use tokio::time::Instant;

use crate::ingest::Ingest;
use crate::ingest::batch::{BadLine, Decoded, Foreign, Rejected, Suspicious, UNKNOWN_COLLECTOR};
use crate::ingest::registry::{Origin, Traffic};
use crate::ingest::write::WriteError;
use crate::ops::meters::{Label, LineRejection, SuspiciousTime};
use crate::proto::channel::CollectorId;

/// Longest [`Report::warning`], in bytes: heads of answers have 8 KiB in most clients.
const WARNING_BYTES_MAX: usize = 1024;

/// One message, once it is read.
pub(super) struct Report {
    shares: Vec<Share>,
    rejected: Rejected,
    first_errors: Vec<BadLine>,
    suspicious: Suspicious,
    foreign: Option<Foreign>,
    /// Who is told about the bad lines, which do not say whose they are: the collector the sender named, else the first
    /// one in the message.
    blamed: Option<CollectorId>,
}

/// One collector's part of a message.
struct Share {
    collector: CollectorId,
    metrics: u64,
    bytes: usize,
}

impl Report {
    /// Of a message of `bytes`, sent for `explicit` if the sender named a collector. Takes the errors.
    pub(super) fn new(decoded: &mut Decoded, bytes: usize, explicit: Option<&CollectorId>) -> Self {
        let alone = decoded.batches.len() == 1;
        let shares: Vec<Share> = decoded
            .batches
            .iter()
            .map(|batch| Share {
                collector: batch.collector.clone(),
                metrics: batch.metrics(),
                bytes: if alone { bytes } else { batch.bytes() },
            })
            .collect();
        let blamed = explicit.or(shares.first().map(|share| &share.collector)).cloned();
        let blamed = blamed.or_else(|| CollectorId::new(UNKNOWN_COLLECTOR).ok());
        Self {
            shares,
            rejected: decoded.rejected,
            first_errors: std::mem::take(&mut decoded.first_errors),
            suspicious: std::mem::take(&mut decoded.suspicious),
            foreign: decoded.foreign,
            blamed,
        }
    }

    /// What a request hears of whose lines none was accepted.
    pub(super) fn nothing_taken(&self) -> Result<(), WriteError> {
        let limited = [LineRejection::TooManyChannels, LineRejection::TooManyCollectors];
        match self.rejected.total() {
            0 => Ok(()),
            _ if limited.into_iter().any(|kind| self.rejected.of(kind) > 0) => {
                Err(WriteError::TooMany(self.errors()))
            }
            _ if self.foreign.is_some() => Err(WriteError::Foreign(self.errors())),
            _ => Err(WriteError::BadBody(self.errors())),
        }
    }

    /// The first bad lines, as one text for people.
    pub(super) fn errors(&self) -> String {
        let described: Vec<String> = self.first_errors.iter().map(BadLine::to_string).collect();
        let more = self.rejected.total().saturating_sub(described.len() as u64);
        let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
        let head = self.foreign.map_or_else(String::new, |foreign| format!("{foreign} ("));
        let end = if self.foreign.is_some() { ")" } else { "" };
        head + &described.join("; ") + &tail + end
    }

    /// What the sender should know of a write that was stored, for a header of its answer.
    pub(super) fn warning(&self) -> Option<HeaderValue> {
        let rejected = self.rejected.total();
        let mut warnings: Vec<String> = self.suspicious.described().iter().map(BadLine::to_string).collect();
        if rejected > 0 {
            warnings.insert(0, format!("not accepted: {rejected} ({})", self.errors()));
        }
        let text = warnings.join("; ");
        let visible = text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' });
        let header: String = visible.take(WARNING_BYTES_MAX).collect();
        HeaderValue::from_str(&header).ok().filter(|header| !header.is_empty())
    }

    fn lines_of_note(&self) -> Vec<BadLine> {
        let foreign =
            self.foreign.map(|foreign| BadLine { line: 0, column: 0, message: foreign.to_string() });
        foreign.into_iter().chain(self.first_errors.iter().cloned()).collect()
    }
}

impl Ingest {
    /// Counts a message; its metrics only if they were `accepted`.
    pub(super) fn tell(&self, report: &Report, origin: Origin, accepted: bool) {
        let now = Instant::now();
        for share in report.shares.iter().filter(|_| accepted) {
            let traffic = Traffic {
                lines_accepted: share.metrics,
                lines_rejected: 0,
                bytes: share.bytes as u64,
                errors: &[],
            };
            self.registry.record(&share.collector, origin, traffic, now);
        }
        self.tell_rejected(report, origin, now);
        if accepted {
            self.tell_suspicious(report, origin, now);
        }
    }

    fn tell_rejected(&self, report: &Report, origin: Origin, now: Instant) {
        let rejected = report.rejected.total();
        let (Some(blamed), true) = (&report.blamed, rejected > 0) else { return };
        for &kind in LineRejection::ALL {
            self.node.meters.lines_rejected.of(kind).increment(report.rejected.of(kind));
        }
        let errors = report.lines_of_note();
        let traffic = Traffic { lines_accepted: 0, lines_rejected: rejected, bytes: 0, errors: &errors };
        if self.registry.record(blamed, origin, traffic, now) {
            tracing::warn!(
                event = "bad_lines",
                collector = %blamed,
                remote = origin.remote.map(tracing::field::display),
                rejected,
                errors = report.errors(),
                "lines were not accepted; whatever else the batch held was"
            );
        }
    }

    /// Not a line in the log: a collector with a wrong precision has one with every flush.
    fn tell_suspicious(&self, report: &Report, origin: Origin, now: Instant) {
        let (Some(blamed), true) = (&report.blamed, report.suspicious.total() > 0) else { return };
        for &kind in SuspiciousTime::ALL {
            self.node.meters.lines_suspicious.of(kind).increment(report.suspicious.of(kind));
        }
        let errors = report.suspicious.described();
        let traffic = Traffic { lines_accepted: 0, lines_rejected: 0, bytes: 0, errors: &errors };
        self.registry.record(blamed, origin, traffic, now);
    }
}
