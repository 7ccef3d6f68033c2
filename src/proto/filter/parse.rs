//! Reads filters.

use super::glob::{Glob, GlobBuilder};
use super::{FILTER_BYTES_MAX, Filter, FilterError, FilterErrorKind as Kind, Part, Predicate};
use crate::proto::channel::{CollectorId, unescape_token};
use crate::proto::printable::printable;

/// Longest name that an error spells out in its suggestions; real ones are below 64 bytes.
const SUGGESTED_BYTES_MAX: usize = 64;

/// Reads one filter.
pub(super) fn filter(text: &str) -> Result<Filter, FilterError> {
    if text.trim().is_empty() {
        return Err(FilterError { column: 1, kind: Kind::Empty });
    }
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError { column: 1, kind: Kind::TooLong(text.len()) });
    }
    let brace = text.find('{').unwrap_or(text.len());
    let (collector, measurement) = channel(text, &text[..brace])?;
    let mut predicates =
        if brace == text.len() { Vec::new() } else { Reader { text, at: brace }.braces()? };
    predicates.sort();
    predicates.dedup();
    Ok(Filter { collector, measurement, predicates: predicates.into() })
}

/// Whether a character stands for itself in a tag key or value without quotes.
pub(super) fn is_bare(character: char) -> bool {
    !character.is_whitespace()
        && !character.is_control()
        && !matches!(character, ',' | '{' | '}' | '=' | '!' | '"' | '\\' | '*')
}

/// Whether a character of a name is always written as `%XX`.
pub(super) fn is_reserved(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character, '%' | '*' | '>' | '{' | '}' | ',' | '"')
}

fn error_at(text: &str, byte: usize, kind: Kind) -> FilterError {
    FilterError { column: text[..byte].chars().count() + 1, kind }
}

/// Reads `<collector>.<measurement>`, the beginning of `text`.
fn channel(text: &str, channel: &str) -> Result<(Part, Part), FilterError> {
    check_tokens(text, channel)?;
    let Some((collector, measurement)) = channel.rsplit_once('.') else {
        return match channel {
            ">" => Ok((Part::Any, Part::Any)),
            "*" => Err(error_at(text, 0, Kind::LoneStar)),
            name => {
                // The error repeats the name three times, and has to stay short whatever the name is.
                let name = printable(name);
                let is_short = name.len() <= SUGGESTED_BYTES_MAX;
                let name = if is_short { name.into_owned() } else { "NAME".to_owned() };
                Err(error_at(text, 0, Kind::OnePart(name)))
            }
        };
    };
    let measurement_at = collector.len() + 1;
    let collector = match collector {
        "*" => Part::Any,
        name => {
            if let Some(dot) = name.find("*.").or_else(|| name.strip_suffix('*').map(str::len)) {
                return Err(error_at(text, dot, Kind::TooManyParts));
            }
            let name = unescape(text, name, 0)?;
            if let Err(error) = CollectorId::new(&name) {
                return Err(error_at(text, 0, Kind::Collector(error)));
            }
            Part::Is(name)
        }
    };
    let measurement = match measurement {
        "*" | ">" => Part::Any,
        name => Part::Is(unescape(text, name, measurement_at)?),
    };
    Ok((collector, measurement))
}

/// Checks each dot-separated token by itself; afterwards `*` and `>` only stand alone, and `>` only at the end.
fn check_tokens(text: &str, channel: &str) -> Result<(), FilterError> {
    let mut at = 0;
    for token in channel.split('.') {
        let end = at + token.len();
        match token {
            "" => return Err(error_at(text, at, Kind::EmptyPart)),
            ">" if end < channel.len() => return Err(error_at(text, at, Kind::RestNotLast)),
            "*" | ">" => {}
            name => {
                for (offset, character) in name.char_indices() {
                    let kind = match character {
                        '*' | '>' => Kind::PartialWildcard,
                        // The beginning of an escape: read later.
                        '%' => continue,
                        _ if is_reserved(character) => Kind::Reserved(character),
                        _ => continue,
                    };
                    return Err(error_at(text, at + offset, kind));
                }
            }
        }
        at = end + 1;
    }
    Ok(())
}

/// Unlike tokens on the bus, which others may write, a filter's escapes must be right: a client wants to hear of a typo.
fn unescape(text: &str, name: &str, at: usize) -> Result<Box<str>, FilterError> {
    // The spelling of an empty measurement.
    if name != "%" {
        let mut bytes = Vec::with_capacity(name.len());
        let mut rest = name;
        while let Some(percent) = rest.find('%') {
            bytes.extend_from_slice(&rest.as_bytes()[..percent]);
            let digits =
                rest.get(percent + 1..percent + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                return Err(error_at(text, at + name.len() - rest.len() + percent, Kind::BadEscape));
            };
            bytes.push(byte);
            rest = &rest[percent + 3..];
        }
        bytes.extend_from_slice(rest.as_bytes());
        return match String::from_utf8(bytes) {
            Ok(name) => Ok(name.into_boxed_str()),
            Err(_) => Err(error_at(text, at, Kind::NotUtf8)),
        };
    }
    Ok(unescape_token(name).into())
}

/// Reads the braces.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn braces(mut self) -> Result<Vec<Predicate>, FilterError> {
        self.at += 1;
        self.skip_spaces();
        if self.peek() == Some('}') {
            return Err(self.error(Kind::NoPredicates));
        }
        let mut predicates = Vec::new();
        loop {
            predicates.push(self.predicate()?);
            match self.peek() {
                Some(',') => self.at += 1,
                Some('}') => break,
                _ => return Err(self.error(Kind::SeparatorExpected)),
            }
        }
        self.at += 1;
        if self.at < self.text.len() {
            return Err(self.error(Kind::AfterBrace));
        }
        Ok(predicates)
    }

    /// One predicate with the spaces around it.
    fn predicate(&mut self) -> Result<Predicate, FilterError> {
        self.skip_spaces();
        let key_at = self.at;
        let mut key = String::new();
        let mut star_at = None;
        self.word(|at, character| match character {
            Some(character) => key.push(character),
            None => star_at = star_at.or(Some(at)),
        })?;
        if let Some(at) = star_at {
            return Err(error_at(self.text, at, Kind::WildcardInKey));
        }
        if key.is_empty() {
            return Err(error_at(self.text, key_at, Kind::KeyExpected));
        }
        self.skip_spaces();
        let negated = self.operator()?;
        self.skip_spaces();
        let value = self.value()?;
        self.skip_spaces();
        Ok(Predicate { key: key.into(), negated, value })
    }

    fn operator(&mut self) -> Result<bool, FilterError> {
        let rest = &self.text[self.at..];
        let (negated, length) = match rest.as_bytes() {
            [b'!', b'=', ..] => (true, 2),
            [b'=', ..] => (false, 1),
            _ => return Err(self.error(Kind::OperatorExpected)),
        };
        self.at += length;
        Ok(negated)
    }

    fn value(&mut self) -> Result<Glob, FilterError> {
        let value_at = self.at;
        let mut value = GlobBuilder::new();
        self.word(|_, character| match character {
            Some(character) => value.literal(character),
            None => value.star(),
        })?;
        value.finish().ok_or_else(|| error_at(self.text, value_at, Kind::ValueExpected))
    }

    /// A quoted or bare word: `Some` for each literal character, `None` for each star.
    fn word(&mut self, mut each: impl FnMut(usize, Option<char>)) -> Result<(), FilterError> {
        if self.peek() != Some('"') {
            while let Some(character) = self.peek().filter(|c| is_bare(*c) || *c == '*') {
                each(self.at, (character != '*').then_some(character));
                self.at += character.len_utf8();
            }
            return Ok(());
        }
        let quote_at = self.at;
        self.at += 1;
        loop {
            let at = self.at;
            let character = self.peek().ok_or_else(|| error_at(self.text, quote_at, Kind::OpenQuote))?;
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(()),
                '*' => each(at, None),
                '\\' => {
                    let escaped = self
                        .peek()
                        .filter(|c| matches!(c, '"' | '\\' | '*'))
                        .ok_or_else(|| error_at(self.text, at, Kind::BadQuotedEscape))?;
                    self.at += 1;
                    each(at, Some(escaped));
                }
                literal => each(at, Some(literal)),
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(' ') {
            self.at += 1;
        }
    }

    fn error(&self, kind: Kind) -> FilterError {
        error_at(self.text, self.at, kind)
    }
}
