//! The collectors in `/api/metrics/status`: written once for all who ask within a moment, and handed out page by page.
//!
//! A node may know 10,000 collectors, of 250 bytes each: an answer with all of them, made for each request, would keep the
//! node busy for a client that asks in a loop. A page is a part of one text that all answers share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::ops::node::Node;
use crate::proto::channel::CollectorId;
use crate::proto::printable::printable_json;

/// Collectors of a page, unless it is asked for another number.
pub const PAGE_ROWS: usize = 500;
/// Collectors of a page at most: some 250 kB.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// A collector of which something came within this time counts as connected: three of Telegraf's flush intervals.
pub const PRESENT: Duration = Duration::from_secs(30);

/// A listing is handed out for so long at most.
const AGE_MAX: Duration = Duration::from_secs(1);
/// And for so many times as long as it took to make: a twentieth of a core goes into listings, however often they are asked for.
const AGE_PER_WORK: u32 = 20;

/// A collector, as a role knows it.
pub struct Row {
    /// Which.
    pub id: CollectorId,
    /// Whether it holds a socket, or something came from it within [`PRESENT`]; none where that is not to be known.
    pub connected: Option<bool>,
    /// Whatever else is known; an object.
    pub about: Value,
}

/// The collectors that a role knows.
#[derive(Default)]
pub struct Collectors {
    /// In no order.
    pub rows: Vec<Row>,
    /// As the rows', of any; also of those that have no row.
    pub any_connected: Option<bool>,
}

/// All collectors, as text.
pub struct Listing {
    made: Instant,
    age_max: Duration,
    any_connected: Option<bool>,
    /// The rows in order of their ids, with commas between them.
    text: Bytes,
    /// Each id, and where its row ends.
    ends: Vec<(CollectorId, usize)>,
}

/// A part of a listing.
pub struct Page {
    /// The rows, with commas between them.
    pub rows: Bytes,
    /// The last id, if more follow.
    pub next: Option<String>,
}

/// The latest listing of a node.
#[derive(Default)]
pub struct Listings {
    /// The first that finds it too old makes the next one while others wait.
    latest: tokio::sync::Mutex<Option<Arc<Listing>>>,
}

impl Listings {
    /// A listing of moments ago.
    pub async fn latest(&self, node: &Arc<Node>) -> Arc<Listing> {
        let mut latest = self.latest.lock().await;
        if let Some(listing) = latest.as_ref().filter(|listing| listing.is_fresh()) {
            return listing.clone();
        }
        // On a thread that nobody else waits for: 10,000 collectors take some milliseconds.
        let about = node.clone();
        let made = tokio::task::spawn_blocking(move || Listing::of(about.collectors())).await;
        // Fails only if the work panics, or the runtime ends; then there is nothing to list.
        let listing = Arc::new(made.unwrap_or_else(|_| Listing::of(Collectors::default())));
        *latest = Some(listing.clone());
        listing
    }
}

impl Listing {
    /// Writes these down.
    pub fn of(collectors: Collectors) -> Self {
        let begun = Instant::now();
        let Collectors { mut rows, any_connected } = collectors;
        rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let (mut text, mut ends) = (Vec::new(), Vec::with_capacity(rows.len()));
        for Row { id, connected, mut about } in rows {
            if !text.is_empty() {
                text.push(b',');
            }
            about["id"] = json!(id.as_str());
            about["connected"] = json!(connected);
            text.extend_from_slice(printable_json(&about.to_string()).as_bytes());
            ends.push((id, text.len()));
        }
        let made = Instant::now();
        let age_max = ((made - begun) * AGE_PER_WORK).min(AGE_MAX);
        Self { made, age_max, any_connected, text: text.into(), ends }
    }

    fn is_fresh(&self) -> bool {
        self.made.elapsed() < self.age_max
    }

    /// Up to `limit` collectors whose ids come behind `after`.
    pub fn page(&self, after: Option<&str>, limit: usize) -> Page {
        let first = after.map_or(0, |after| self.ends.partition_point(|(id, _)| id.as_str() <= after));
        let last = first.saturating_add(limit).min(self.ends.len());
        // Behind the comma that follows the row before.
        let begin = first.checked_sub(1).map_or(0, |before| self.ends[before].1 + 1);
        let Some((id, end)) = self.ends[first..last].last() else {
            return Page { rows: Bytes::new(), next: None };
        };
        let next = (last < self.ends.len()).then(|| id.as_str().to_owned());
        Page { rows: self.text.slice(begin..*end), next }
    }

    /// All of it, beside what else a status has.
    #[cfg(test)]
    pub(crate) fn beside(&self, mut status: Map<String, Value>) -> Value {
        let page = self.page(None, usize::MAX);
        self.describe(&page, &mut status);
        let rows = format!("[{}]", String::from_utf8_lossy(&page.rows));
        status
            .insert("collectors".to_owned(), serde_json::from_str(&rows).expect("rows with commas between"));
        status.into()
    }

    /// Adds what is not on a page.
    pub fn describe(&self, page: &Page, status: &mut Map<String, Value>) {
        status.insert("collector_connected".to_owned(), json!(self.any_connected));
        status.insert("collectors_total".to_owned(), json!(self.ends.len()));
        status.insert("collectors_next".to_owned(), json!(page.next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(ids: impl IntoIterator<Item = String>) -> Listing {
        let row = |id: String| Row {
            id: CollectorId::new(&id).unwrap(),
            connected: Some(true),
            about: json!({"lines_accepted": 7}),
        };
        Listing::of(Collectors { rows: ids.into_iter().map(row).collect(), any_connected: Some(true) })
    }

    fn ids(page: &Page) -> Vec<String> {
        let rows: Vec<Value> =
            serde_json::from_str(&format!("[{}]", str::from_utf8(&page.rows).unwrap())).unwrap();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn pages_give_every_collector_once_in_order() {
        let listing = listing((0..25).rev().map(|n| format!("c{n:02}")));
        let (mut after, mut found, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = listing.page(after.as_deref(), 10);
            found.extend(ids(&page));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, (0..25).map(|n| format!("c{n:02}")).collect::<Vec<_>>());
        assert_eq!(pages, 3);
        assert_eq!(ids(&listing.page(Some("c03x"), 2)), ["c04", "c05"], "after an id that is gone");
        assert_eq!(ids(&listing.page(Some("z"), 2)), [""; 0]);
        assert_eq!(ids(&listing.page(None, 25)).len(), 25);
        assert_eq!(listing.page(None, 25).next, None);
    }

    #[test]
    fn a_page_is_a_part_of_the_text_that_all_share() {
        let listing = listing((0..100).map(|n| format!("c{n:02}")));
        let (one, other) = (listing.page(None, 100), listing.page(None, 10));
        assert_eq!(one.rows.as_ptr(), other.rows.as_ptr());
    }

    #[test]
    fn an_id_that_would_steer_a_terminal_is_listed_as_an_escape() {
        let page = listing(["web\u{202e}10".to_owned()]).page(None, 10);
        assert!(str::from_utf8(&page.rows).unwrap().contains(r"web\u202e10"));
        assert_eq!(ids(&page), ["web\u{202e}10"]);
    }

    #[test]
    fn nobody_is_nothing() {
        let page = listing([]).page(None, 10);
        assert_eq!((ids(&page).len(), page.next), (0, None));
    }
}
