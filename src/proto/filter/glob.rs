//! Values of tag predicates: text in which `*` stands for any run of characters.

use std::fmt;

use super::parse::is_bare;

/// The literal texts between the stars: one without a star, two around one star, and so on. Neighbouring stars are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Glob(Box<[Box<str>]>);

/// Collects a glob character by character.
pub(super) struct GlobBuilder(Vec<String>);

impl GlobBuilder {
    pub(super) fn new() -> Self {
        Self(vec![String::new()])
    }

    pub(super) fn literal(&mut self, character: char) {
        if let Some(last) = self.0.last_mut() {
            last.push(character);
        }
    }

    pub(super) fn star(&mut self) {
        // Between two stars nothing is asked for, so `**` is `*`; but the empty text before a first star stays.
        if self.0.len() == 1 || self.0.last().is_some_and(|last| !last.is_empty()) {
            self.0.push(String::new());
        }
    }

    /// The finished glob, or `None` if nothing was written.
    pub(super) fn finish(self) -> Option<Glob> {
        let empty = matches!(self.0.as_slice(), [only] if only.is_empty());
        (!empty).then(|| Glob(self.0.into_iter().map(String::into_boxed_str).collect()))
    }
}

impl Glob {
    /// Whether it holds no star.
    pub(super) fn is_literal(&self) -> bool {
        self.0.len() == 1
    }

    /// What stands before the first star; all of it, if there is none.
    pub(super) fn prefix(&self) -> &str {
        self.0.first().map_or("", |first| first)
    }

    /// Linear in the value's length times the pattern's: every literal is looked for once, leftmost first.
    pub(super) fn matches(&self, value: &str) -> bool {
        let [first, rest @ ..] = &*self.0 else { return false };
        let Some(mut value) = value.strip_prefix(&**first) else { return false };
        let [between @ .., last] = rest else { return value.is_empty() };
        for literal in between {
            match value.find(&**literal) {
                Some(at) => value = &value[at + literal.len()..],
                None => return false,
            }
        }
        value.ends_with(&**last)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = self.0.iter().all(|literal| literal.chars().all(is_bare));
        let quote = if bare { "" } else { "\"" };
        f.write_str(quote)?;
        for (at, literal) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "*" })?;
            f.write_str(&if bare { literal.to_string() } else { escape_quoted(literal) })?;
        }
        f.write_str(quote)
    }
}

/// Text as it stands between double quotes.
pub(super) fn escape_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '*') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}
