//! Which series a line belongs to, and what its fields become when several lines tell of one series.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use smallvec::SmallVec;

use super::Line;
use super::scan::{PLAIN, token_end};
use super::value::{RawFields, RawTags, Tags};

impl<'a> Line<'a> {
    /// The fields, as written.
    pub fn fields_text(&self) -> &'a str {
        self.text[self.series_end..self.body_end].trim_start_matches([' ', '\t'])
    }

    /// Measurement and tags, as written but in the order of the tags' keys: the same text for the same series, whatever the
    /// order in which its writers put tags. Nothing is copied where they are in order already, as Telegraf's are.
    pub fn canonical_series(&self) -> Cow<'a, str> {
        let mut last = "";
        if self.raw_tags().all(|(key, _)| std::mem::replace(&mut last, key) <= key) {
            return Cow::Borrowed(self.series());
        }
        let mut tags: SmallVec<[(&str, &str); 16]> = self.raw_tags().collect();
        tags.sort_unstable_by_key(|(key, _)| *key);
        let mut series = String::with_capacity(self.series_end);
        series.push_str(self.measurement_escaped());
        for (key, value) in tags {
            series.extend([",", key, "=", value]);
        }
        Cow::Owned(series)
    }
}

/// The tags of a series as [`Line::series`] or [`Line::canonical_series`] give it.
pub fn series_tags(series: &str) -> Tags<'_> {
    Tags::new(RawTags::new(&series[token_end(series.as_bytes(), 0, PLAIN)..]))
}

/// The keys of a series' tags, as written.
pub(super) fn tag_keys(series: &str) -> impl Iterator<Item = &str> {
    RawTags::new(&series[token_end(series.as_bytes(), 0, PLAIN)..]).map(|(key, _)| key)
}

/// Makes of the fields of two lines those of both: `newer` values where both have one. `fields` holds the older ones and gets
/// the result; both are as [`Line::fields_text`] gives them.
pub fn merge_fields(fields: &mut String, newer: &str) {
    if have_same_keys(fields, newer) {
        // Nearly always: a collector writes the same fields again and again.
        fields.clear();
        fields.push_str(newer);
        return;
    }
    *fields = merged_fields(fields, newer);
}

/// Adds those of `older` fields that `fields` does not have. Both are as [`Line::fields_text`] gives them.
pub fn add_missing_fields(fields: &mut String, older: &str) {
    let is_known = |wanted: &str| RawFields::new(fields).any(|(key, _)| key == wanted);
    // The same fields nearly always, and then in the same order.
    if !have_same_keys(fields, older) && !RawFields::new(older).all(|(key, _)| is_known(key)) {
        *fields = merged_fields(older, fields);
    }
}

fn merged_fields(older: &str, newer: &str) -> String {
    let mut fields = String::with_capacity(older.len() + newer.len() + 1);
    let mut merged: Vec<&str> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (key, text) in spans(older).chain(spans(newer)) {
        match places.entry(key) {
            // Of a field that a line repeats the last value counts, as in JSON.
            Entry::Occupied(place) => merged[*place.get()] = text,
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(text);
            }
        }
    }
    merged.iter().for_each(|text| fields.extend([if fields.is_empty() { "" } else { "," }, text]));
    fields
}

fn have_same_keys(one: &str, other: &str) -> bool {
    let mut others = RawFields::new(other);
    RawFields::new(one).all(|(key, _)| others.next().is_some_and(|(name, _)| name == key))
        && others.next().is_none()
}

/// Each field's key, and key and value as written.
fn spans(fields: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut raw = RawFields::new(fields);
    std::iter::from_fn(move || {
        let before = raw.rest();
        let (key, _) = raw.next()?;
        let text = &before[..before.len() - raw.rest().len()];
        Some((key, text.strip_suffix(',').filter(|_| !raw.rest().is_empty()).unwrap_or(text)))
    })
}
