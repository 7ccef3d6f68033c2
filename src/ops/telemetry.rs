//! Logs of this process, on stderr: one JSON object per line, or text for people on a terminal.
//!
//! The convention of every log line in this crate: a stable name in the field `event`, what matters as fields, and a sentence.
//!
//! ```
//! tracing::info!(event = "collector_connected", collector = "web-01", "collector web-01 connected");
//! ```
//!
//! becomes, on one line,
//!
//! ```json
//! {"timestamp":"2026-11-22T03:48:20.123Z","level":"INFO","event":"collector_connected",
//!  "message":"collector web-01 connected","context":{"collector":"web-01","target":"telecast::ingest"}}
//! ```
//!
//! Lines without an `event` (libraries below) get the name of the library. Alerts and searches hold on to `event`, so it
//! never contains a value and never changes with the wording.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Format, JsonFields, Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{LogFormat, TelemetrySettings, normalise_log_filter};
use crate::proto::printable::printable;

static LEVEL: OnceLock<Level> = OnceLock::new();

/// What is logged, changeable while the process runs.
#[derive(Clone)]
pub struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Why the level stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// Neither a level nor filter directives.
    #[error(
        "{0:?} is no log level: use error, warn, info, debug, trace, off, or directives like info,telecast::edge=debug"
    )]
    NotALevel(String),
    /// Another part of the program owns the logs.
    #[error("the logs of this process cannot be changed")]
    NotOurs,
}

impl Level {
    /// Logs by these directives from now on; takes what `LOG_LEVEL` takes.
    pub fn set(&self, text: &str) -> Result<(), LevelError> {
        let not_a_level = || LevelError::NotALevel(text.to_owned());
        let directives = normalise_log_filter(text).ok_or_else(not_a_level)?;
        let filter = EnvFilter::builder().parse(directives).map_err(|_| not_a_level())?;
        self.handle.reload(filter).map_err(|_| LevelError::NotOurs)
    }

    /// The directives in force.
    pub fn current(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Starts the logs of this process. Does nothing when something else has (a test's subscriber).
pub fn init(settings: &TelemetrySettings) {
    let pretty = match settings.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    // The level comes from a configuration that has parsed it already.
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&settings.level));
    let registry = tracing_subscriber::registry().with(filter);
    let started = if pretty {
        let people = people_layer(std::io::stderr).with_target(false);
        // Colours in a file or a pager are garbage; NO_COLOR (no-color.org) is for people who see garbage in them anyway.
        let colours =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        registry.with(people.with_ansi(colours)).try_init()
    } else {
        registry.with(json_layer(std::io::stderr)).try_init()
    };
    if started.is_ok() {
        let _ = LEVEL.set(Level { handle });
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// A panic is a log line like any other: the text that the standard hook prints would break the JSON of the lines around it.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    // Captured only if RUST_BACKTRACE asks for it.
    let backtrace = std::backtrace::Backtrace::capture();
    let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
    let backtrace = captured.then(|| backtrace.to_string());
    tracing::error!(event = "panicked", location, backtrace, "{message}");
}

/// What is logged, once [`init`] has started the logs.
pub fn level() -> Option<&'static Level> {
    LEVEL.get()
}

/// Writes each event as one JSON line; see the head of this file.
pub fn json_layer<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(JsonLine)
        .with_ansi(false)
        .with_writer(writer)
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    event: &'a str,
    message: &'a str,
    context: Map<String, Value>,
}

struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let Some(formatted) = extensions.get::<FormattedFields<N>>() else { continue };
            if let Ok(Value::Object(members)) = serde_json::from_str(&formatted.fields) {
                let shown = |(name, value): (String, Value)| match value {
                    Value::String(text) => (name, printable(&text).into()),
                    value => (name, value),
                };
                fields.context.extend(members.into_iter().map(shown));
            }
        }
        event.record(&mut fields);
        fields.context.insert("target".to_owned(), metadata.target().into());
        let library = metadata.target().split("::").next().unwrap_or_default();
        let line = Line {
            timestamp: timestamp(),
            level: metadata.level().as_str(),
            event: fields.event.as_deref().unwrap_or(library),
            message: &fields.message,
            context: fields.context,
        };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// Now, in UTC, to the millisecond (RFC 3339).
fn timestamp() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// What peers have sent is in log lines, and people read these on terminals. The line feeds of a backtrace are ours, and harmless as
/// JSON writes them.
fn shown_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Writes one field for people. The layer's own way leaves texts as they are that are logged with `%`.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = shown_lines(&format!("{value:?}"));
    match (field.name(), writer.has_ansi_escapes()) {
        ("message", _) => writer.write_str(&text),
        (name, true) => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{text}"),
        (name, false) => write!(writer, "{name}={text}"),
    }
}

/// Text for people on a terminal.
fn people_layer<S, W>(
    writer: W,
) -> tracing_subscriber::fmt::Layer<S, impl for<'a> FormatFields<'a>, Format, W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    let fields = debug_fn(write_field).delimited(" ");
    tracing_subscriber::fmt::layer().fmt_fields(fields).with_writer(writer)
}

#[derive(Default)]
struct Fields {
    event: Option<String>,
    message: String,
    context: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = Some(value.to_owned()),
            "message" => self.message = shown_lines(value),
            name => {
                self.context.insert(name.to_owned(), shown_lines(value).into());
            }
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.context.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.context.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.context.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.context.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::proto::printable::is_unprintable;
    use crate::sync::Locked;

    #[derive(Clone)]
    struct Captured(Arc<Locked<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.with(|captured| captured.extend_from_slice(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `log` writes, with everything up to `info` on.
    fn lines(log: impl FnOnce(&Level)) -> Vec<String> {
        let captured = Captured(Arc::new(Locked::empty("captured lines")));
        let writer = captured.clone();
        let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
        let layer = json_layer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(layer);
        tracing::subscriber::with_default(subscriber, || log(&Level { handle }));
        let bytes = captured.0.with(|captured| captured.clone());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_timestamp_level_event_message_context_in_this_order() {
        let lines = lines(
            |_| tracing::info!(event = "collector_connected", collector = %"web \"1\"", age = 3, "hello\nyou"),
        );
        let (head, rest) = lines[0].split_at(r#"{"timestamp":"2026-11-22T03:48:20.123Z""#.len());
        let time = head.strip_prefix(r#"{"timestamp":""#).unwrap().trim_end_matches('"');
        assert!(time.len() == 24 && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(
            rest,
            r#","level":"INFO","event":"collector_connected","message":"hello\nyou","context":{"age":3,"collector":"web \"1\"","target":"telecast::ops::telemetry::tests"}}"#
        );
    }

    #[test]
    fn no_name_that_a_peer_has_sent_steers_the_terminal_of_who_reads_the_log() {
        let id = "web\u{202e}10-\u{1b}[2J\u{9b}K\u{2028}";
        let lines = lines(|_| {
            let _span = tracing::info_span!("connection", remote = id).entered();
            tracing::warn!(event = "bad_lines", collector = %id, quoted = ?id, errors = id, "of {id}");
        });
        assert!(!lines[0].contains(is_unprintable), "{}", lines[0]);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        let shown = "web\\u{202e}10-\\u{1b}[2J\\u{9b}K\\u{2028}";
        assert_eq!(
            (&line["context"]["collector"], &line["context"]["remote"]),
            (&shown.into(), &shown.into())
        );
        assert_eq!(line["message"], format!("of {shown}"));

        let captured = Captured(Arc::new(Locked::empty("captured lines")));
        let writer = captured.clone();
        let people = people_layer(move || writer.clone()).with_ansi(true);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(people), || {
            tracing::warn!(event = "bad_lines", collector = %id, errors = id, "of {id}");
        });
        let text = captured.0.with(|captured| String::from_utf8(captured.clone()).unwrap());
        let steers = |c: char| c != '\n' && c != '\x1b' && is_unprintable(c);
        assert!(
            !text.contains(steers) && !text.contains("\x1b[2J") && text.contains("web\\u{202e}10-"),
            "{text:?}"
        );
        assert!(text.contains("\x1b["), "its own colours stay: {text:?}");
    }

    #[test]
    fn fields_of_spans_belong_to_the_context_and_the_nearest_wins() {
        let lines = lines(|_| {
            let _outer = tracing::info_span!("outer", node = "n1", shard = 1).entered();
            let _inner = tracing::info_span!("inner", shard = 2).entered();
            tracing::warn!(event = "shard_reset", "gone");
        });
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["context"]["node"], "n1");
        assert_eq!(line["context"]["shard"], 2);
    }

    #[test]
    fn a_line_of_a_library_carries_its_name_as_event() {
        let lines = lines(|_| tracing::info!(target: "async_nats::connector", "attempt"));
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["event"], &line["message"]), (&Value::from("async_nats"), &Value::from("attempt")));
    }

    #[test]
    fn a_panic_is_one_line_with_its_place() {
        let standard = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let lines = lines(|_| {
            let _ = std::panic::catch_unwind(|| panic!("lost\nit"));
        });
        std::panic::set_hook(standard);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (lines.len(), &line["event"], &line["message"]),
            (1, &"panicked".into(), &"lost\nit".into())
        );
        assert!(line["context"]["location"].as_str().unwrap().contains("telemetry.rs"), "{line}");
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        let lines = lines(|level| {
            tracing::debug!(event = "before", "not yet");
            level.set("DEBUG").unwrap();
            tracing::debug!(event = "after", "now");
            assert_eq!(level.set("chatty"), Err(LevelError::NotALevel("chatty".to_owned())));
            assert_eq!(level.current(), "telecast=debug,warn");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains(r#""event":"after""#));
    }
}
