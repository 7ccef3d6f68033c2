//! The ladder of intervals. Pure.

use super::subscription::INTERVAL_MS_MAX;

/// Intervals that there are, in milliseconds, as people would choose them. Each is a walk over what has changed of its own, so
/// there are few; from one to the next it is half as much again, about.
pub const INTERVALS_MS: [u32; 28] = [
    100, 150, 200, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 7_500, 10_000, 15_000,
    20_000, 30_000, 45_000, 60_000, 90_000, 120_000, 180_000, 300_000, 600_000, 900_000, 1_800_000,
    3_600_000,
];

const _: () = assert!(INTERVALS_MS[INTERVALS_MS.len() - 1] == INTERVAL_MS_MAX, "whatever may be asked for");

/// The interval that a client gets which asks for this one: the next that is not shorter, so that what it asked for holds.
pub fn interval_served(interval_ms: u32) -> u32 {
    let at = INTERVALS_MS.partition_point(|step| *step < interval_ms);
    INTERVALS_MS.get(at).copied().unwrap_or(INTERVAL_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::subscription::INTERVAL_MS_MIN;
    use super::*;

    #[test]
    fn an_interval_is_rounded_up_to_one_of_a_few() {
        assert!(INTERVALS_MS.is_sorted() && INTERVALS_MS[0] == INTERVAL_MS_MIN);
        for step in INTERVALS_MS {
            assert_eq!(interval_served(step), step);
        }
        for (asked, served) in [(101, 150), (999, 1_000), (1_001, 1_500), (3_599_999, 3_600_000)] {
            assert_eq!(interval_served(asked), served);
        }
        let distinct: std::collections::HashSet<u32> = (100..2_100).map(interval_served).collect();
        assert_eq!(distinct.len(), 11);
    }
}
