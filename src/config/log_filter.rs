//! What `LOG_LEVEL` may be.

use tracing_subscriber::filter::EnvFilter;

/// The filter directives that `text` asks for, or `None` if it asks for nothing that can be had.
///
/// A bare word has to be a level, in any case: the filter language itself would take `verbose` for the name of a module,
/// and the process would log nothing. A bare `info`, `debug` or `trace` means this program's own; the libraries below it
/// stay at `warn`, because one line for each HTTP frame or reconnect of theirs buries what was looked for.
pub fn normalise(text: &str) -> Option<String> {
    let directives: Option<Vec<String>> = text.split(',').map(|part| directive(part.trim())).collect();
    let directives = directives?;
    let normalised = match directives.as_slice() {
        [level] if ["info", "debug", "trace"].contains(&level.as_str()) => format!("warn,telecast={level}"),
        _ => directives.join(","),
    };
    EnvFilter::builder().parse(&normalised).ok()?;
    Some(normalised)
}

fn directive(text: &str) -> Option<String> {
    match text.rsplit_once('=') {
        None => level(text),
        Some((target, word)) if !target.is_empty() => Some(format!("{target}={}", level(word)?)),
        Some(_) => None,
    }
}

fn level(word: &str) -> Option<String> {
    let word = word.to_ascii_lowercase();
    let word = if word == "warning" { "warn" } else { &word };
    ["off", "error", "warn", "info", "debug", "trace"].contains(&word).then(|| word.to_owned())
}
