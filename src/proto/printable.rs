//! Text from outside, as it may be shown to people.
//!
//! A collector id, a filter or a parameter is whatever a peer sent. On a terminal, control characters move the cursor or change
//! colours, and bidirectional controls reorder what is shown; in a log viewer, invisible characters make two ids look alike. Where
//! such text is printed for people (logs, errors, the command line), these characters are shown as `\u{202e}` instead. JSON for
//! programs has them as escapes, which mean the character itself: see [`printable_json`].

use std::borrow::Cow;

/// The text with every control, bidirectional and invisible formatting character written as `\u{…}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unprintable) else { return Cow::Borrowed(text) };
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(&text[..first]);
    for character in text[first..].chars() {
        if is_unprintable(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// The same JSON with these characters as escapes, `\u202e`: it means the same, and may be shown as it is.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Below, JSON has escapes anyway in strings, and line feeds between them.
    let escaped = |character: char| !character.is_ascii() && is_unprintable(character) || character == '\x7f';
    let Some(first) = json.find(escaped) else { return Cow::Borrowed(json) };
    let mut shown = String::with_capacity(json.len() + 16);
    shown.push_str(&json[..first]);
    for character in json[first..].chars() {
        if escaped(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Whether a terminal would act on the character, or show nothing in its place: Unicode's general categories Cc, Cf, Zl and Zp, as
/// far as they are assigned.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_instead() {
        for (text, shown) in [
            ("web-01", "web-01"),
            ("Zürich \u{1f321} rack 7", "Zürich \u{1f321} rack 7"),
            ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
            ("a\nb\r\tc", "a\\u{a}b\\u{d}\\u{9}c"),
            ("web\u{202e}10-", "web\\u{202e}10-"),
            ("\u{2066}x\u{2069}\u{200f}\u{61c}", "\\u{2066}x\\u{2069}\\u{200f}\\u{61c}"),
            ("\u{85}\u{9b}2J\u{7f}\u{2028}\u{feff}", "\\u{85}\\u{9b}2J\\u{7f}\\u{2028}\\u{feff}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_of_any_text_steers_a_terminal(text in "\\PC{0,8}[\\p{C}\\p{Z}a]{0,16}.{0,8}") {
            let shown = printable(&text);
            prop_assert!(!shown.contains(is_unprintable));
            prop_assert_eq!(printable(&shown), shown.as_ref());
        }

        #[test]
        fn json_that_may_be_shown_means_the_same(text in "[\\p{C}\\p{Z}a\"\\\\]{0,16}.{0,8}") {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let shown = printable_json(&json);
            prop_assert!(!shown.contains(|c| c != '\n' && is_unprintable(c)), "{}", shown);
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), vec![text]);
        }
    }
}
