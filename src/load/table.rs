//! A report as a table for people. Pure.

use std::fmt::{self, Write as _};

use super::report::{Accuracy, Report, Sent};
use super::tally::Times;

impl fmt::Display for Report {
    /// The table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, deliveries, accuracy, .. } = self;
        let mut row = |name: &str, value: String| writeln!(f, "{name:<19}{value}");
        row("clients", clients_row(clients.connected, clients.wanted))?;
        if clients.slow_wanted > 0 {
            row("slow clients", clients_row(clients.slow_connected, clients.slow_wanted))?;
        }
        for (name, counts) in
            [("  refused", &clients.refused), ("  gone", &clients.gone), ("  ended", &clients.ends)]
        {
            for (reason, count) in counts {
                row(name, format!("{} {reason}", grouped(*count)))?;
            }
        }
        if clients.resumed > 0 {
            row("  resumed", grouped(clients.resumed))?;
        }
        if let Some(times) = &self.connect_ms {
            row("connecting", times_row(times))?;
        }
        if let Some(sent) = &self.published {
            let ends: String = sent.ends.iter().fold(String::new(), |mut text, (reason, count)| {
                // Writing into memory cannot fail.
                let _ = write!(text, ", {count} {reason}");
                text
            });
            let Sent { messages, connected, collectors, per_second, .. } = sent;
            let rate = grouped(per_second.round() as u64);
            row("published", format!("{} messages, {rate}/s", grouped(*messages)))?;
            row("  collectors", format!("{connected} of {collectors}{ends}"))?;
        }
        let rate = grouped(deliveries.per_second.round() as u64);
        let seconds = format!("{:.1} s", self.seconds);
        row(
            "delivered",
            format!("{rate} messages/s, {}/s, over {seconds}", bytes(deliveries.bytes_per_second)),
        )?;
        row(
            "  in all",
            format!("{} messages, {}", grouped(deliveries.messages), bytes(deliveries.bytes as f64)),
        )?;
        for (name, count) in [("  of others", deliveries.foreign), ("  replayed", deliveries.replayed)] {
            if count > 0 {
                row(name, grouped(count))?;
            }
        }
        row(
            "latency",
            self.latency_ms
                .as_ref()
                .map_or_else(|| "unknown: only what --publish sends carries its time".to_owned(), times_row),
        )?;
        for (reason, gap) in &self.gaps {
            row("gaps", format!("{} {reason}, {} envelopes", grouped(gap.count), grouped(gap.envelopes)))?;
        }
        row("duplicates", grouped(accuracy.duplicates))?;
        row("order errors", grouped(accuracy.order_errors))?;
        row("missing", missing_row(accuracy, self.published.is_some()))?;
        for (name, count) in [
            ("unasked", accuracy.unasked),
            ("unreadable", accuracy.unreadable),
            ("told stale", accuracy.stale),
        ] {
            if count > 0 {
                row(name, grouped(count))?;
            }
        }
        let each =
            self.own_cpu_us_per_message.map_or_else(String::new, |us| format!(", {us:.2} µs per message"));
        row("this program's CPU", format!("{:.2} cores{each}", self.own_cpu_cores))?;
        for note in &self.notes {
            row("note", note.clone())?;
        }
        let result = if self.ok { "ok".to_owned() } else { self.problems.join("; ") };
        row("result", if self.interrupted { format!("{result} (interrupted)") } else { result })
    }
}

fn clients_row(connected: u64, wanted: usize) -> String {
    format!("{} of {} connected", grouped(connected), grouped(wanted as u64))
}

fn times_row(times: &Times) -> String {
    let Times { p50, p90, p99, max, .. } = times;
    format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  max {max:.2} ms")
}

fn missing_row(accuracy: &Accuracy, published: bool) -> String {
    if !published {
        return "unknown: only what --publish sends is counted".to_owned();
    }
    let mut text = grouped(accuracy.missing);
    for (count, words) in [
        (accuracy.missing_announced, "announced by gaps"),
        (accuracy.missing_away, "of clients that were away at the end"),
        (accuracy.missing_uncertain, "perhaps never stored: their collector's connection ended"),
    ] {
        if count > 0 {
            // Writing into memory cannot fail.
            let _ = write!(text, ", and {} {words}", grouped(count));
        }
    }
    text
}

/// Thousands apart: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(bytes: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| bytes >= *size);
    unit.map_or_else(|| format!("{bytes:.0} B"), |(size, name)| format!("{:.1} {name}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12.0, 1_500.0, 2.5e9].map(bytes), ["12 B", "1.5 kB", "2.5 GB"]);
    }
}
