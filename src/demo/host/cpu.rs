//! `cpu`: shares of time between two readings of `/proc/stat`, per processor and in total.

use crate::proto::metric::{FieldValue, Metric};

/// One line of `/proc/stat`, in ticks since the start: user, nice, system, idle, iowait, irq, softirq, steal, guest,
/// guest_nice (proc_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Times {
    /// As Telegraf tags it: `cpu0`, …, and `cpu-total`.
    name: String,
    ticks: [u64; 10],
}

const USER: usize = 0;
const NICE: usize = 1;
const GUEST: usize = 8;
const GUEST_NICE: usize = 9;

/// The processors' lines; columns that an old kernel does not have are 0.
pub(super) fn read(stat: &str) -> Vec<Times> {
    let mut all: Vec<Times> = stat
        .lines()
        .filter_map(|line| {
            let mut columns = line.strip_prefix("cpu")?.split_ascii_whitespace();
            let total = line.starts_with("cpu ");
            let name = if total { "cpu-total".to_owned() } else { format!("cpu{}", columns.next()?) };
            let mut ticks = [0; 10];
            for (slot, column) in ticks.iter_mut().zip(columns) {
                *slot = column.parse().ok()?;
            }
            Some(Times { name, ticks })
        })
        .collect();
    // Telegraf sends the total last.
    all.sort_by_key(|times| times.name == "cpu-total");
    all
}

/// Logical processors in a reading.
pub(super) fn count(times: &[Times]) -> usize {
    times.iter().filter(|times| times.name != "cpu-total").count()
}

/// What each processor did between two readings; one that appeared in between or did not advance is left out.
pub(super) fn usage(before: &[Times], now: &[Times]) -> Vec<Metric<'static>> {
    now.iter()
        .filter_map(|now| {
            let before = before.iter().find(|before| before.name == now.name)?;
            now.since(before)
        })
        .collect()
}

impl Times {
    fn since(&self, before: &Self) -> Option<Metric<'static>> {
        // iowait may go backwards by a tick (proc_stat(5)): that is nothing, not something huge.
        let mut spent: [u64; 10] = std::array::from_fn(|at| self.ticks[at].saturating_sub(before.ticks[at]));
        // Guests' time is in user and nice already, and Telegraf shows it apart.
        let total: u64 = spent[..GUEST].iter().sum();
        spent[USER] = spent[USER].saturating_sub(spent[GUEST]);
        spent[NICE] = spent[NICE].saturating_sub(spent[GUEST_NICE]);
        let share = |at: usize| FieldValue::Float(spent[at] as f64 / total as f64 * 100.0);
        (total > 0).then(|| {
            super::metric(
                "cpu",
                &[("cpu", &self.name)],
                vec![
                    ("usage_guest", share(GUEST)),
                    ("usage_guest_nice", share(GUEST_NICE)),
                    ("usage_idle", share(3)),
                    ("usage_iowait", share(4)),
                    ("usage_irq", share(5)),
                    ("usage_nice", share(NICE)),
                    ("usage_softirq", share(6)),
                    ("usage_steal", share(7)),
                    ("usage_system", share(2)),
                    ("usage_user", share(USER)),
                ],
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::host::text;

    const BEFORE: &str = "cpu  200 20 100 600 0 0 0 0 0 0\ncpu0 100 10 50 300 0 0 0 0 0 0\nintr 675595 0 0\n";

    #[test]
    fn shares_are_of_the_time_between_two_readings() {
        let now = "cpu  250 20 125 720 5 0 0 0 20 0\ncpu0 140 10 70 330 5 2 2 1 20 0\nctxt 1\n";
        let metrics = usage(&read(BEFORE), &read(now));
        assert_eq!(
            text(&metrics),
            "cpu,cpu=cpu0 usage_guest=20.0,usage_guest_nice=0.0,usage_idle=30.0,usage_iowait=5.0,usage_irq=2.0,\
             usage_nice=0.0,usage_softirq=2.0,usage_steal=1.0,usage_system=20.0,usage_user=20.0\n\
             cpu,cpu=cpu-total usage_guest=10.0,usage_guest_nice=0.0,usage_idle=60.0,usage_iowait=2.5,usage_irq=0.0,\
             usage_nice=0.0,usage_softirq=0.0,usage_steal=0.0,usage_system=12.5,usage_user=15.0\n"
        );
    }

    #[test]
    fn time_that_stands_still_or_goes_back_is_left_out() {
        assert_eq!(usage(&read(BEFORE), &read(BEFORE)), []);
        let back = "cpu0 100 10 50 299 0 0 0 0 0 0\n";
        assert_eq!(usage(&read(BEFORE), &read(back)), []);
        assert_eq!(usage(&[], &read(BEFORE)), []);
    }

    #[test]
    fn an_old_kernel_has_fewer_columns() {
        let metrics = usage(&read("cpu0 0 0 0 0\n"), &read("cpu0 1 1 1 1\n"));
        assert!(text(&metrics).contains("usage_user=25.0"));
        assert_eq!(count(&read(BEFORE)), 1);
    }
}
