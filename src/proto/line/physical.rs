//! One line of line protocol as one physical line, reversibly.
//!
//! A string value may hold line feeds, and any name or value the other characters that some readers take for the end of a line
//! (carriage return, vertical tab, form feed, U+001C to U+001E, U+0085, U+2028, U+2029). A program that reads such a stream line by
//! line would take what stands behind them for a line of its own, or for a comment of the server. Escaped, a line is exactly one
//! line for every reader:
//!
//! * a control character other than tab, U+2028 and U+2029 are written `\u` and four hexadecimal digits in lower case;
//! * a backslash before a `u` is written `\u005c`, so that what looks like an escape is one;
//! * everything else is as it was. A line without such characters is the same line.
//!
//! To read it back, replace each `\u` and its four digits by that character. An escaped line is a valid line by itself: a reader
//! that leaves the escapes alone has the same names, tags, numbers and times, and strings with the escapes in them.

use std::borrow::Cow;

/// Appends a line, without a newline of its own.
pub fn write_physical(out: &mut Vec<u8>, line: &str) {
    let mut rest = line;
    while let Some(at) = rest.bytes().position(may_need_escape) {
        // Each of these bytes begins a character.
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let Some(character) = from.chars().next() else { return };
        let behind = &from[character.len_utf8()..];
        let escaped = if character == '\\' { behind.starts_with('u') } else { ends_lines(character) };
        if escaped {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let code = u32::from(character);
            out.extend_from_slice(b"\\u");
            out.extend([12, 8, 4, 0].map(|shift| HEX[(code >> shift & 15) as usize]));
        } else {
            out.extend_from_slice(&from.as_bytes()[..character.len_utf8()]);
        }
        rest = behind;
    }
    out.extend_from_slice(rest.as_bytes());
}

/// Reads a line back that was written by [`write_physical`].
pub fn read_physical(line: &str) -> Cow<'_, str> {
    let mut read = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("\\u") {
        let digits = rest.get(at + 2..at + 6).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let character = digits.and_then(|digits| char::from_u32(u32::from_str_radix(digits, 16).ok()?));
        let (through, next) = match character {
            Some(character) => {
                read.push_str(&rest[..at]);
                read.push(character);
                ("", at + 6)
            }
            // Not written here; it stands for itself.
            None => (&rest[..at + 2], at + 2),
        };
        read.push_str(through);
        rest = &rest[next..];
    }
    if rest.len() == line.len() {
        return Cow::Borrowed(line);
    }
    read.push_str(rest);
    Cow::Owned(read)
}

/// Whether a byte can begin a character that is escaped.
fn may_need_escape(byte: u8) -> bool {
    // C1 controls begin with 0xc2 in UTF-8, U+2028 and U+2029 with 0xe2.
    matches!(byte, 0..=8 | 10..=31 | 0x7f | b'\\' | 0xc2 | 0xe2)
}

/// Whether a reader may end a line here, or a terminal act on it.
fn ends_lines(character: char) -> bool {
    character != '\t' && character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}
