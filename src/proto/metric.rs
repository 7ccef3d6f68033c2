//! One metric: what a collector measured, in the data model that line protocol and Telegraf JSON share.

use std::borrow::Cow;

/// A measurement's name, tags, fields and time. Borrows from the text it was read from wherever that held no escapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric<'a> {
    /// The measurement.
    pub name: Cow<'a, str>,
    /// Tag keys and values, in the order given.
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Field keys and values, in the order given.
    pub fields: Vec<(Cow<'a, str>, FieldValue<'a>)>,
    /// Nanoseconds since 1970; `None` stands for the time it is received.
    pub timestamp_ns: Option<i64>,
}

/// One field's value. The forms stay apart because receivers of line protocol keep them apart: `1` is a float, `1i` is not.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// `64.2`
    Float(f64),
    /// `64`: a float all the same, written with all its digits, which beyond 2^53 no `f64` holds. Written only: where text is
    /// read, it is a `Float`.
    Whole(i128),
    /// `64i`
    Integer(i64),
    /// `64u`
    Unsigned(u64),
    /// `true`
    Boolean(bool),
    /// `"text"`
    String(Cow<'a, str>),
}
