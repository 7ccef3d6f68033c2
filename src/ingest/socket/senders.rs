//! Which collectors a connection has brought something of.

use std::collections::HashSet;

use crate::ingest::writer::Identity;
use crate::proto::channel::CollectorId;

/// Most collectors remembered per connection, at some 50 bytes each: 50 KB. Beyond it all are forgotten, and the next batch of
/// each is compared with the log once more.
const COLLECTORS_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Senders(HashSet<CollectorId>);

impl Senders {
    /// What the next batch of `collector` is recognised by. Only the first on a connection may repeat one whose
    /// acknowledgement was lost with the connection before: within one, everything arrives once.
    pub(super) fn identity(&mut self, collector: &CollectorId) -> Identity {
        if self.0.contains(collector) {
            return Identity::New;
        }
        if self.0.len() >= COLLECTORS_MAX {
            self.0.clear();
        }
        self.0.insert(collector.clone());
        Identity::Content
    }
}
