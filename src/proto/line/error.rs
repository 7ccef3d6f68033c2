//! What can be wrong with a line, and where.

/// A line that was not accepted: what is wrong with it, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct LineError {
    /// Which raw line of the input, from 1.
    pub line: usize,
    /// Which character of that line, from 1; one past the end where something is missing.
    pub column: usize,
    /// What is wrong.
    pub kind: LineErrorKind,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LineErrorKind {
    /// Bytes that are no UTF-8.
    #[error("this is not UTF-8 text")]
    InvalidUtf8,
    /// The line begins with a comma.
    #[error("the measurement's name is missing")]
    EmptyMeasurement,
    /// Nothing after measurement and tags.
    #[error("the fields are missing: a line is `measurement,tag=value field=value timestamp`")]
    MissingFields,
    /// A comma or equals sign where a tag should begin.
    #[error("a tag's key is missing")]
    MissingTagKey,
    /// A tag without `=`, or with nothing after it.
    #[error("a tag's value is missing: leave out the tag, or write `key=value`")]
    MissingTagValue,
    /// A tag's key that another tag of the line has: which of them counts is anybody's guess.
    #[error("a tag's key comes twice in this line: leave out one of them")]
    RepeatedTag,
    /// A second `=` in a tag.
    #[error("an equals sign in a tag's value needs a backslash before it")]
    UnescapedEquals,
    /// A comma or equals sign where a field should begin, or a comma at the end.
    #[error("a field's key is missing")]
    MissingFieldKey,
    /// A field without `=`, or with nothing after it.
    #[error(
        "a field's value is missing: write `key=value`, and a backslash before spaces and commas in keys"
    )]
    MissingFieldValue,
    /// A value that begins like a number and is none.
    #[error("this is not a number: write `1.5`, `1e9`, `-7i` or `7u`")]
    BadNumber,
    /// NaN or infinity.
    #[error("NaN and infinity cannot be written in line protocol: leave out the field")]
    NotFinite,
    /// More than a float of 64 bits holds.
    #[error("this number is too large for a 64-bit float")]
    FloatOutOfRange,
    /// More than 64 bits hold.
    #[error("this integer does not fit in 64 bits")]
    IntegerOutOfRange,
    /// A value that begins like a boolean and is none.
    #[error("this is not a boolean: write `true`, `false`, `t` or `f`; text needs double quotes")]
    BadBoolean,
    /// A value that is nothing line protocol knows.
    #[error("text in a field needs double quotes")]
    UnquotedString,
    /// A quote that is never closed.
    #[error("the text that begins here is never closed by a double quote")]
    UnterminatedString,
    /// Something right after a closing quote.
    #[error(
        "a comma, a space or the line's end should follow a closing quote: write `\\\"` for a quote inside text"
    )]
    TextAfterString,
    /// Something other than an integer where the time should be.
    #[error("the timestamp is not an integer: spaces in names need a backslash, text needs double quotes")]
    BadTimestamp,
    /// More than 64 bits hold, as written or in nanoseconds.
    #[error("this timestamp does not fit in 64 bits of nanoseconds: is the precision right?")]
    TimestampOutOfRange,
    /// Something after the timestamp.
    #[error("nothing may follow the timestamp")]
    TrailingText,
}

/// Whose mistake a rejected line is, as coarse as a counter wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LineFault {
    /// Not in the format.
    Syntax,
    /// Not text.
    Utf8,
    /// In the format, but a number or time beyond what can be kept.
    Range,
}

impl LineErrorKind {
    /// The counter this belongs to.
    pub fn rejection(&self) -> LineFault {
        match self {
            Self::InvalidUtf8 => LineFault::Utf8,
            Self::FloatOutOfRange | Self::IntegerOutOfRange | Self::TimestampOutOfRange => LineFault::Range,
            Self::EmptyMeasurement
            | Self::MissingFields
            | Self::MissingTagKey
            | Self::MissingTagValue
            | Self::RepeatedTag
            | Self::UnescapedEquals
            | Self::MissingFieldKey
            | Self::MissingFieldValue
            | Self::BadNumber
            | Self::NotFinite
            | Self::BadBoolean
            | Self::UnquotedString
            | Self::UnterminatedString
            | Self::TextAfterString
            | Self::BadTimestamp
            | Self::TrailingText => LineFault::Syntax,
        }
    }
}
