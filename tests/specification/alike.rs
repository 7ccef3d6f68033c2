//! Whether an answer is what an example shows.
//!
//! An example of an answer is compared by these rules:
//! * objects have the same members, and a list has at least what the example's list has, in this order; an empty one is empty;
//! * `…` in a text stands for anything, and a text has at least the example's lines, in this order;
//! * members that differ by nature ([`VARYING`]) have a value of the same type;
//! * everything else is equal.

use serde_json::Value;

/// Members whose value is another one each time: places in the log, names of nodes, times, measurements of the process.
const VARYING: &[&str] = &[
    "at",
    "bytes_received",
    "commit",
    "connected_since",
    "last_frame_age_ms",
    "limit_mb",
    "lines_per_second",
    "matching",
    "max",
    "clients_max",
    "next",
    "node",
    "offset",
    "percentage",
    "remote",
    "session",
    "uptime",
    "used_mb",
    "version",
];

/// What is compared.
#[derive(Clone, Copy)]
pub enum Compare {
    /// Values, by the rules of this module.
    Values,
    /// Only the members and the types of their values; a message's `type` still counts.
    Shape,
}

/// Says where an answer differs from its example.
pub fn compare(compare: Compare, example: &Value, answer: &Value) -> Result<(), String> {
    difference(compare, "", example, answer, false)
}

fn difference(by: Compare, at: &str, example: &Value, answer: &Value, varies: bool) -> Result<(), String> {
    let differs = || Err(format!("{}: {answer} instead of {example}", if at.is_empty() { "/" } else { at }));
    match (example, answer) {
        (Value::Object(wanted), Value::Object(found)) => {
            if !wanted.keys().eq(found.keys()) {
                return differs();
            }
            wanted.iter().try_for_each(|(name, value)| {
                let varies = varies || VARYING.contains(&name.as_str());
                let by = if name == "type" { Compare::Values } else { by };
                difference(by, &format!("{at}/{name}"), value, &found[name], varies)
            })
        }
        (Value::Array(wanted), Value::Array(found)) => {
            if wanted.is_empty() != found.is_empty() {
                return differs();
            }
            let mut rest = found.iter();
            let is_there =
                |wanted| rest.by_ref().any(|found| difference(by, at, wanted, found, varies).is_ok());
            if wanted.iter().all(is_there) { Ok(()) } else { differs() }
        }
        (Value::String(_), Value::String(_)) if varies || matches!(by, Compare::Shape) => Ok(()),
        (Value::String(wanted), Value::String(found)) => {
            if holds_lines(wanted, found) {
                Ok(())
            } else {
                differs()
            }
        }
        (Value::Number(_), Value::Number(_)) if varies || matches!(by, Compare::Shape) => Ok(()),
        (Value::Bool(_), Value::Bool(_)) if matches!(by, Compare::Shape) => Ok(()),
        (wanted, found) if wanted == found => Ok(()),
        _ => differs(),
    }
}

/// Whether a text has the lines of an example, in this order.
pub fn holds_lines(example: &str, text: &str) -> bool {
    let mut rest = text.lines();
    example.lines().all(|wanted| rest.by_ref().any(|line| matches(wanted, line)))
}

/// Whether a line is what an example shows, where `…` stands for anything.
pub fn matches(example: &str, line: &str) -> bool {
    let mut parts = example.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(example: Value, answer: Value, values: bool, shape: bool) {
        assert_eq!(compare(Compare::Values, &example, &answer).is_ok(), values, "{example} {answer}");
        assert_eq!(compare(Compare::Shape, &example, &answer).is_ok(), shape, "{example} {answer}");
    }

    #[test]
    fn what_differs_by_nature_has_the_same_type_and_everything_else_is_equal() {
        check(json!({"offset": "a", "n": 1}), json!({"offset": "b", "n": 1}), true, true);
        check(json!({"offset": "a", "n": 1}), json!({"offset": 1, "n": 1}), false, false);
        check(json!({"offset": "a", "n": 1}), json!({"offset": "b", "n": 2}), false, true);
        check(json!({"type": "a"}), json!({"type": "b"}), false, false);
        check(json!({"n": 1}), json!({"n": 1, "m": 1}), false, false);
        check(json!({"uptime": 3}), json!({"uptime": null}), false, false);
    }

    #[test]
    fn a_list_may_hold_more_than_the_example_but_nothing_is_nothing() {
        check(json!([1, 3]), json!([1, 2, 3]), true, true);
        check(json!([3, 1]), json!([1, 2, 3]), false, true);
        check(json!([]), json!([1]), false, false);
    }

    #[test]
    fn dots_stand_for_anything_and_a_text_may_have_more_lines() {
        assert!(matches("a … c", "a b c") && matches("…", "") && matches("a", "a") && matches("…b…", "abc"));
        assert!(!matches("a … c", "a b d") && !matches("a", "ab") && !matches("a…a", "a"));
        assert!(holds_lines("a\nc", "a\nb\nc\n") && !holds_lines("c\na", "a\nb\nc"));
    }
}
