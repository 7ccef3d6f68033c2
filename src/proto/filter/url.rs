//! Filters in URLs, where an escape of a name is an escape of the URL too.
//!
//! `*.disk%2Eio` in a URL says by the rules of URLs the same as `*.disk.io`. Its author has read that a dot inside a measurement is
//! written `%2E`, and means that: nobody has to write a dot of a URL that way. So before a URL is decoded, what can only have been
//! meant as an escape of a name is kept as one.

use std::borrow::Cow;

/// The value of a parameter `filter` as it stands in a URL, with the escapes of its names kept through the decoding of the URL:
///
/// * `%2E`, in a filter that also has a dot as it is (software that writes every dot as `%2E` writes the dividing one so, too);
/// * `%20` inside a name: a space there could mean nothing else;
/// * `%25`, if what follows makes it no escape once it is decoded. Alone behind a dot it is the spelling of an empty measurement.
///
/// Tag predicates have no such escapes, and stay as they are.
pub fn keep_escapes(value: &str) -> Cow<'_, str> {
    let names = &value[..names_end(value)];
    let has_dot = names.contains('.');
    let mut kept = String::new();
    let mut done = 0;
    for (at, _) in names.match_indices('%') {
        let (before, behind) = (&names[..at], names.get(at + 3..).unwrap_or_default());
        let is_name = match names.get(at + 1..at + 3) {
            Some("2E" | "2e") => has_dot,
            Some("20") => !is_blank(before) && !is_blank(behind),
            Some("25") => {
                let is_alone =
                    behind.is_empty() && [".", "%2E", "%2e"].iter().any(|dot| before.ends_with(dot));
                !is_alone && !behind.get(..2).is_some_and(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))
            }
            _ => false,
        };
        if is_name {
            kept.push_str(&value[done..at]);
            kept.push_str("%25");
            done = at + 1;
        }
    }
    if done == 0 {
        return Cow::Borrowed(value);
    }
    kept.push_str(&value[done..]);
    Cow::Owned(kept)
}

/// Where the predicates begin.
fn names_end(value: &str) -> usize {
    let braces = ["{", "%7B", "%7b"].iter().filter_map(|brace| value.find(brace));
    braces.min().unwrap_or(value.len())
}

/// Whether there is nothing but spaces, as URLs spell them.
fn is_blank(mut text: &str) -> bool {
    while let Some(rest) = text.strip_prefix("%20").or_else(|| text.strip_prefix(['+', ' '])) {
        text = rest;
    }
    text.is_empty()
}
