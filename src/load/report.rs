//! The result of a run: the numbers, and what is wrong with them. Pure. `table` writes them for people.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::plan::Plan;
use super::publisher::Published;
use super::shared::Glance;
use super::tally::{Tally, Times};
use crate::proto::printable::printable;

/// A thread that works for more of the time than this is not measuring the server any more.
const SATURATED_SHARE: f64 = 0.85;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Everybody was connected at the end, and nothing is wrong.
    pub(super) ok: bool,
    /// What is wrong, in words.
    pub(super) problems: Vec<String>,
    /// What may make the figures worse than the server is, in words.
    pub(super) notes: Vec<String>,
    pub(super) interrupted: bool,
    /// How long the load lasted.
    pub(super) seconds: f64,
    pub(super) clients: Clients,
    pub(super) deliveries: Deliveries,
    /// From the line's writing to its reading, of lines that were not replayed.
    pub(super) latency_ms: Option<Times>,
    /// From connecting to the welcome.
    pub(super) connect_ms: Option<Times>,
    pub(super) gaps: BTreeMap<String, Gap>,
    pub(super) accuracy: Accuracy,
    pub(super) published: Option<Sent>,
    /// CPU time of this program per message it received, while the load lasted.
    pub(super) own_cpu_us_per_message: Option<f64>,
    pub(super) own_cpu_cores: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Clients {
    pub(super) wanted: usize,
    pub(super) connected: u64,
    pub(super) slow_wanted: usize,
    pub(super) slow_connected: u64,
    /// Never let in, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Let in, and not there at the end, by reason.
    pub(super) gone: BTreeMap<String, u64>,
    /// Ends of connections, and of attempts to come back, by reason.
    pub(super) ends: BTreeMap<String, u64>,
    pub(super) resumed: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Deliveries {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) per_second: f64,
    pub(super) bytes_per_second: f64,
    /// Of others' collectors: checked by their offsets alone.
    pub(super) foreign: u64,
    /// Lines that were sent while their client was away.
    pub(super) replayed: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Gap {
    pub(super) count: u64,
    pub(super) envelopes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Accuracy {
    pub(super) duplicates: u64,
    pub(super) order_errors: u64,
    /// Not delivered, and not announced.
    pub(super) missing: u64,
    /// Not delivered, and announced by gaps.
    pub(super) missing_announced: u64,
    /// Not delivered to anybody, by collectors whose connection had just ended.
    pub(super) missing_uncertain: u64,
    /// Not delivered to clients that were away at the end.
    pub(super) missing_away: u64,
    /// Delivered against the filters.
    pub(super) unasked: u64,
    pub(super) unreadable: u64,
    pub(super) stale: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Sent {
    pub(super) collectors: usize,
    pub(super) connected: usize,
    /// Connected, and with messages that ingest had not taken at the end.
    pub(super) blocked: usize,
    pub(super) messages: u64,
    pub(super) per_second: f64,
    pub(super) wanted_per_second: f64,
    pub(super) held_back: u64,
    pub(super) ends: BTreeMap<String, u64>,
}

/// What a run leaves behind.
pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) published: Option<Published>,
    /// When the load began and ended.
    pub(super) window: [Glance; 2],
    pub(super) lasted: Duration,
    /// CPU time of this program while the load lasted.
    pub(super) cpu: Duration,
    pub(super) interrupted: bool,
}

impl Report {
    pub(super) fn new(plan: &Plan, measured: Measured) -> Self {
        let Measured { tally, published, window: [begin, end], lasted, cpu, interrupted } = measured;
        let seconds = lasted.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let in_window = end.deliveries.saturating_sub(begin.deliveries);
        let own_cpu_cores = if seconds > 0.0 { cpu.as_secs_f64() / seconds } else { 0.0 };
        let sent = published.as_ref().zip(plan.publishing.as_ref()).map(|(published, publishing)| Sent {
            collectors: publishing.collectors,
            connected: published.connected,
            blocked: published.blocked,
            messages: published.messages,
            per_second: per_second(published.messages),
            wanted_per_second: publishing.messages_per_s,
            held_back: published.held_back,
            ends: published.ends.clone(),
        });
        let mut report = Self {
            ok: false,
            problems: Vec::new(),
            notes: Vec::new(),
            interrupted,
            seconds,
            latency_ms: tally.latency_times(),
            connect_ms: tally.connect_times(),
            deliveries: Deliveries {
                messages: tally.deliveries,
                bytes: tally.bytes,
                per_second: per_second(in_window),
                bytes_per_second: per_second(end.bytes.saturating_sub(begin.bytes)),
                foreign: tally.foreign,
                replayed: tally.replayed,
            },
            accuracy: Accuracy {
                duplicates: tally.duplicates,
                order_errors: tally.order_errors,
                missing: tally.missing.silent,
                missing_announced: tally.missing.announced,
                missing_uncertain: tally.missing.uncertain,
                missing_away: tally.missing.away,
                unasked: tally.unasked,
                unreadable: tally.unreadable,
                stale: tally.stale,
            },
            gaps: tally.gaps.into_iter().map(|(reason, gaps)| (reason, gaps.into())).collect(),
            clients: Clients {
                wanted: plan.clients,
                connected: tally.connected,
                slow_wanted: plan.slow,
                slow_connected: tally.slow_connected,
                refused: tally.refused,
                gone: tally.gone,
                ends: tally.ends,
                resumed: tally.resumed,
            },
            published: sent,
            own_cpu_us_per_message: (in_window > 0).then(|| cpu.as_secs_f64() * 1e6 / in_window as f64),
            own_cpu_cores,
        };
        report.find_problems();
        report.ok = report.problems.is_empty();
        let complaints = [tally.complaint, published.and_then(|published| published.complaint)];
        report.find_notes(plan, complaints.into_iter().flatten());
        report
    }

    /// The exit code's answer.
    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }

    pub(super) fn to_json(&self) -> String {
        // Text keys and finite numbers: nothing in it cannot be JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn find_problems(&mut self) {
        let Self { clients, accuracy, published, .. } = self;
        let mut problem = |wrong: bool, words: String| {
            if wrong {
                self.problems.push(words);
            }
        };
        let away = (clients.wanted as u64).saturating_sub(clients.connected);
        problem(away > 0, format!("{away} of {} clients not connected at the end", clients.wanted));
        let counts = [
            (accuracy.order_errors, "out of order"),
            (accuracy.duplicates, "duplicates"),
            (accuracy.missing, "lost without an announcement"),
            (accuracy.unasked, "against the filters"),
            (accuracy.unreadable, "unreadable"),
        ];
        for (count, words) in counts {
            problem(count > 0, format!("{words}: {count}"));
        }
        if let Some(sent) = published {
            let away = sent.collectors.saturating_sub(sent.connected);
            problem(
                away > 0,
                format!("{away} of {} own collectors not connected at the end", sent.collectors),
            );
            problem(
                sent.blocked > 0,
                format!(
                    "{} of {} own collectors still held messages that ingest did not take, so the last messages of all of \
                     them are not checked",
                    sent.blocked, sent.collectors
                ),
            );
        }
    }

    fn find_notes(&mut self, plan: &Plan, complaints: impl Iterator<Item = String>) {
        if self.own_cpu_cores > SATURATED_SHARE * plan.threads as f64 {
            self.notes.push(format!(
                "this program itself used {:.2} cores with {} thread(s) for clients: give it more --threads, or share the load \
                 between machines",
                self.own_cpu_cores, plan.threads
            ));
        }
        if let Some(sent) = self.published.as_ref().filter(|sent| sent.held_back > 0) {
            self.notes.push(format!(
                "{} messages were not sent: ingest held its collectors back, or they were away",
                sent.held_back
            ));
        }
        self.notes.extend(complaints.map(|words| format!("the server said: {}", printable(&words))));
    }
}

impl From<super::tally::Gaps> for Gap {
    fn from(gaps: super::tally::Gaps) -> Self {
        Self { count: gaps.count, envelopes: gaps.envelopes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::account::Verdict;
    use crate::load::plan::Publishing;
    use crate::load::target::Target;

    fn plan() -> Plan {
        Plan { slow: 1, ..Plan::of_clients(2) }
    }

    fn measured(change: impl FnOnce(&mut Tally)) -> Measured {
        let mut tally = Tally::new();
        (tally.connected, tally.slow_connected) = (2, 1);
        tally.latency(1_000_000);
        change(&mut tally);
        let end = Glance { deliveries: 1_000_000, bytes: 512_000_000, ..Glance::default() };
        Measured {
            tally,
            published: Some(Published { connected: 0, ..Published::default() }),
            window: [Glance::default(), end],
            lasted: Duration::from_secs(10),
            cpu: Duration::from_secs(2),
            interrupted: false,
        }
    }

    #[test]
    fn a_good_run_says_so_in_both_forms() {
        let report = Report::new(&plan(), measured(|_| {}));
        assert!(report.is_ok(), "{report}");
        let table = report.to_string();
        for part in ["2 of 2 connected", "100,000 messages/s, 51.2 MB/s, over 10.0 s", "2.00 µs per message"]
        {
            assert!(table.contains(part), "{table}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["ok"], true);
        assert_eq!(json["deliveries"]["per_second"], 100_000.0);
        assert_eq!(json["latency_ms"]["samples"], 1);
        assert_eq!(json["published"], serde_json::Value::Null);
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let check = |words: &str, change: fn(&mut Tally)| {
            let report = Report::new(&plan(), measured(change));
            assert!(!report.is_ok() && report.to_string().contains(words), "{words}: {report}");
        };
        check("1 of 2 clients not connected", |tally| tally.connected = 1);
        check("out of order: 1", |tally| tally.judge(Verdict::Late));
        check("duplicates: 1", |tally| tally.judge(Verdict::Duplicate));
        check("against the filters: 1", |tally| tally.judge(Verdict::Unasked));
        check("lost without an announcement: 1", |tally| tally.missing.silent = 1);
        check("unreadable: 1", |tally| tally.unreadable = 1);
        let announced = Report::new(&plan(), measured(|tally| tally.missing.announced = 5));
        assert!(announced.is_ok(), "what is announced is no fault: {announced}");
    }

    #[test]
    fn an_account_that_could_not_be_closed_is_no_good_run() {
        let target = Target::of_collectors("ingest:1").unwrap();
        let publishing = Publishing { target, collectors: 2, messages_per_s: 1.0, message_bytes: 100 };
        let plan = Plan { publishing: Some(publishing), ..plan() };
        let with = |blocked| {
            let mut measured = measured(|tally| tally.missing.away = 7);
            measured.published = Some(Published { connected: 2, blocked, ..Published::default() });
            Report::new(&plan, measured)
        };
        assert!(with(0).is_ok() && !with(1).is_ok());
        assert!(with(1).to_string().contains("1 of 2 own collectors still held messages"), "{}", with(1));
        assert!(with(0).to_string().contains("0, and 7 of clients that were away"), "{}", with(0));
    }
}
