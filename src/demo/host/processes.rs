//! `processes`: how many there are in which state, from `/proc/<pid>/stat`.

use crate::proto::metric::{FieldValue, Metric};

/// Telegraf's fields and the kernel's letters for them (proc_pid_stat(5)).
const STATES: &[(&str, &[char])] = &[
    ("blocked", &['D']),
    ("dead", &['X', 'x']),
    ("idle", &['I']),
    ("paging", &['W']),
    ("running", &['R']),
    ("sleeping", &['S']),
    ("stopped", &['T', 't']),
    ("zombies", &['Z']),
];

const PARKED: char = 'P';

/// Counts the processes whose `stat` texts are given.
#[derive(Debug, Default)]
pub(super) struct Census {
    by_state: [i64; STATES.len()],
    parked: i64,
    unknown: i64,
    threads: i64,
}

impl Census {
    /// Counts one; text that is no `stat` is not counted.
    pub(super) fn add(&mut self, stat: &str) {
        // The command stands in parentheses and may hold some itself, so the last one ends it.
        let Some((_, rest)) = stat.rsplit_once(") ") else { return };
        let mut columns = rest.split_ascii_whitespace();
        let Some(state) = columns.next().and_then(|state| state.chars().next()) else { return };
        let threads: i64 = columns.nth(16).and_then(|threads| threads.parse().ok()).unwrap_or(0);
        match STATES.iter().position(|(_, letters)| letters.contains(&state)) {
            Some(at) => self.by_state[at] += 1,
            None if state == PARKED => self.parked += 1,
            None => self.unknown += 1,
        }
        self.threads += threads;
    }

    /// The metric.
    pub(super) fn metric(&self) -> Metric<'static> {
        let total = self.by_state.iter().sum::<i64>() + self.parked + self.unknown;
        let counted = STATES.iter().zip(self.by_state).map(|((field, _), count)| (*field, count));
        let mut fields: Vec<_> = counted
            .chain([("total", total), ("total_threads", self.threads), ("unknown", self.unknown)])
            // Telegraf knows this field only where there is such a process.
            .chain((self.parked > 0).then_some(("parked", self.parked)))
            .map(|(field, count)| (field, FieldValue::Integer(count)))
            .collect();
        fields.sort_by_key(|(field, _)| *field);
        super::metric("processes", &[], fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::host::text;

    #[test]
    fn processes_are_counted_by_state() {
        let mut census = Census::default();
        for stat in [
            "1 (process_api) S 0 0 0 0 -1 4194560 35716 5442267 0 913 72 355 9755 3359 20 0 13 0 24 46764032 3775",
            "2 (a) R 0 0 (b) R 0 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 2 0 24",
            "3 (z) Z 0 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 24",
            "4 (k) I 0 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 24",
            "5 (q) ? 0 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 24",
            "nonsense",
        ] {
            census.add(stat);
        }
        assert_eq!(
            text(&[census.metric()]),
            "processes blocked=0i,dead=0i,idle=1i,paging=0i,running=1i,sleeping=1i,stopped=0i,total=5i,total_threads=18i,\
             unknown=1i,zombies=1i\n"
        );
        census.add("6 (p) P 0 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 24");
        assert!(text(&[census.metric()]).contains("parked=1i"));
    }
}
