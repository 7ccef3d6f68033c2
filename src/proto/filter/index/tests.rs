use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::proto::channel::CollectorId;
use crate::proto::filter::Match;
use crate::proto::line;

fn channel(collector: &str, measurement: &str) -> Channel {
    Channel::new(CollectorId::new(collector).unwrap(), measurement)
}

fn set(texts: &[&str]) -> FilterSet {
    FilterSet::parse(texts.iter().copied()).unwrap()
}

/// Numbers of the lines that each set gets.
fn found(index: &mut FilterIndex<usize>, channel: &Channel, text: &str) -> BTreeMap<usize, Vec<u32>> {
    let lines: Vec<Line<'_>> = line::lines(text.as_bytes()).map(Result::unwrap).collect();
    let all = lines.len() as u32;
    let mut sets = BTreeMap::new();
    for (set, share) in index.find(channel, || &lines) {
        let taken: Vec<u32> = match share {
            Share::Whole => (0..all).collect(),
            Share::Lines(runs) => runs.iter().cloned().flatten().collect(),
        };
        assert!(share == Share::Whole || taken.len() < lines.len(), "all lines are the whole");
        assert!(taken.is_sorted_by(|a, b| a < b), "each line once, in order");
        assert!(sets.insert(*set, taken).is_none(), "each set once");
    }
    sets
}

/// The same by asking every set.
fn asked(sets: &BTreeMap<usize, FilterSet>, channel: &Channel, text: &str) -> BTreeMap<usize, Vec<u32>> {
    let lines: Vec<Line<'_>> = line::lines(text.as_bytes()).map(Result::unwrap).collect();
    let taken = |set: &FilterSet| -> Option<Vec<u32>> {
        let passes = |number: &u32| set.matches_line(channel, |key| lines[*number as usize].tag(key));
        let all = 0..lines.len() as u32;
        match set.matches_channel(channel) {
            Match::No => None,
            Match::Whole => Some(all.collect()),
            Match::Lines => Some(all.filter(passes).collect::<Vec<_>>()).filter(|taken| !taken.is_empty()),
        }
    };
    sets.iter().filter_map(|(number, set)| Some((*number, taken(set)?))).collect()
}

#[test]
fn each_part_of_a_channel_finds_its_filters() {
    let mut index = FilterIndex::default();
    for (number, text) in ["web.cpu", "*.cpu", "web.>", ">", "db.cpu", "web.mem"].iter().enumerate() {
        index.insert(&set(&[text]), number);
    }
    let all = |sets: &[usize]| sets.iter().map(|set| (*set, vec![0])).collect::<BTreeMap<_, _>>();
    assert_eq!(found(&mut index, &channel("web", "cpu"), "cpu v=1"), all(&[0, 1, 2, 3]));
    assert_eq!(found(&mut index, &channel("db", "mem"), "mem v=1"), all(&[3]));
}

#[test]
fn lines_are_not_read_where_no_filter_asks_for_tags() {
    let mut index = FilterIndex::default();
    index.insert(&set(&["*.cpu{host=a}"]), ());
    index.insert(&set(&["*.mem"]), ());
    assert_eq!(index.find(&channel("web", "mem"), || panic!("nobody asks for tags")).count(), 1);
    assert_eq!(index.find(&channel("web", "net"), || panic!("nobody asks at all")).count(), 0);
}

#[test]
fn a_thousand_filters_on_the_values_of_a_tag_cost_one_check_per_line() {
    let checks = |filter: &dyn Fn(usize) -> String| {
        let mut index = FilterIndex::default();
        for number in 0..1000 {
            index.insert(&set(&[&filter(number)]), number);
        }
        let text = "cpu,cpu=total,host=web-7.eu,region=eu v=1\ncpu,cpu=total,host=web-1234.eu,region=eu v=2";
        let sets = found(&mut index, &channel("c", "cpu"), text);
        (sets, index.hits.checked)
    };
    let one = |lines: Vec<u32>| BTreeMap::from([(7, lines)]);
    assert_eq!(checks(&|n| format!("*.cpu{{host=web-{n}.eu}}")), (one(vec![0]), 1));
    assert_eq!(checks(&|n| format!("*.cpu{{host=web-{n}.*}}")), (one(vec![0]), 1));
    assert_eq!(checks(&|n| format!("*.cpu{{host!=web-{n},host=web-{n}.*,region=*}}")), (one(vec![0]), 1));
    // What all of them ask for tells them apart no better than nothing: only the first is filed under it.
    let (sets, checked) = checks(&|n| format!("*.cpu{{cpu=total,host=web-{n}.eu,region=eu}}"));
    assert_eq!(sets, one(vec![0]));
    assert!(checked <= 5, "{checked} checks");
}

#[test]
fn nothing_is_left_of_what_was_removed() {
    let mut index = FilterIndex::default();
    let sets = [
        set(&[]),
        set(&["web.cpu", "*.mem{a=b,c!=d}", "web.>{a!=*}"]),
        set(&["*.cpu{a=x*,b=*}", "*.cpu{a=xy*}"]),
        // Two of one set in one list: taking out the first moves the second.
        set(&["*.cpu{a=y}", "*.cpu{a=y,b!=x}", "*.cpu{a=y,b!=z}"]),
    ];
    for _ in 0..2 {
        let tickets: Vec<Ticket> = sets.iter().map(|set| index.insert(set, ())).collect();
        tickets.into_iter().for_each(|ticket| index.remove(ticket).unwrap());
        assert!(index.any_collector.is_empty() && index.collectors.is_empty());
        assert_eq!((index.slots.len(), index.free.len()), (4, 4), "places are used again");
    }
}

proptest! {
    #[test]
    fn it_finds_what_asking_every_set_finds(
        texts in prop::collection::vec(
            prop::collection::vec("(a|b|\\*)\\.(m|n|\\*)(\\{[kl](=|!=)(x|y|ü|xy|x\\*|xy\\*|ü\\*|\\*y|\\*)(,[kl](=|!=)(x|y|x\\*|\\*))?\\}|)", 0..5),
            1..24,
        ),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        collector in "a|b|c",
        measurement in "m|n|o",
        tags in prop::collection::vec("(,k=(x|y|xy|xyz|ü|üx))?(,l=(x|y|xy))?|,l=(x|y),k=(x|y)", 0..6),
    ) {
        let mut index = FilterIndex::default();
        let mut sets = BTreeMap::new();
        let mut tickets = BTreeMap::new();
        let mut add = |index: &mut FilterIndex<usize>, sets: &mut BTreeMap<_, _>, number: usize, texts: &[String]| {
            let set = FilterSet::parse(texts.iter().map(String::as_str)).unwrap();
            tickets.insert(number, index.insert(&set, number));
            sets.insert(number, set);
            if let Some(ticket) = removed.get(number).map(|at| at.index(number + 1))
                .and_then(|gone| sets.remove(&gone).and(tickets.remove(&gone)))
            {
                index.remove(ticket).unwrap();
            }
        };
        for (number, texts) in texts.iter().enumerate() {
            add(&mut index, &mut sets, number, texts);
        }
        let channel = channel(&collector, &measurement);
        let text: String = tags.iter().map(|tags| format!("{measurement}{tags} v=1\n")).collect();
        prop_assert_eq!(found(&mut index, &channel, &text), asked(&sets, &channel, &text));
    }
}
