//! Every metric of the process: name, unit, labels and help in one table, handles resolved once.
//!
//! Names are verbatim from the dashboards and alerts people already have (`ws_…`). Label values come from closed enums:
//! no client, channel or collector id ever becomes one.

use metrics::{Counter, Gauge, Unit};

/// A closed set of values of one label.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value there is.
    const ALL: &'static [Self];
    /// As exported.
    fn value(self) -> &'static str;
    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
}

/// One counter per value of a label; all of them exist from the start, so rates are right from the first increment.
pub struct CounterBy<L: Label> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> CounterBy<L> {
    fn register(name: &'static str) -> Self {
        let counters = L::ALL.iter().map(|value| metrics::counter!(name, L::NAME => value.value())).collect();
        Self { counters, label: std::marker::PhantomData }
    }

    /// The counter of one value.
    pub fn of(&self, value: L) -> &Counter {
        &self.counters[value.index()]
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $type:ident = $name:literal { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$variant_doc])* $variant,)+ }

        impl Label for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)+ }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Why a connection did not come to be.
    ConnectFailure = "reason" {
        /// The node is full.
        Capacity = "capacity",
        /// The node is draining.
        Draining = "draining",
        /// A parameter could not be read.
        BadRequest = "bad_request",
        /// Not a WebSocket handshake.
        NotWebSocket = "not_websocket",
        /// The log has not been reached yet.
        NotReady = "not_ready",
        /// The handshake began and did not finish.
        Handshake = "handshake",
        /// The collector id is in use.
        Conflict = "conflict",
    }
}

label! {
    /// Why a line was not accepted.
    LineRejection = "kind" {
        /// Not line protocol or Telegraf JSON.
        Syntax = "syntax",
        /// Bytes that are no UTF-8.
        Utf8 = "utf8",
        /// A number or time out of range.
        Range = "range",
        /// Larger than an envelope may be.
        TooLarge = "too_large",
    }
}

label! {
    /// Why envelopes that had arrived never reached the log.
    DropReason = "reason" {
        /// The log refuses them for ever.
        Refused = "refused",
        /// The node had to stop before the log answered.
        Shutdown = "shutdown",
        /// Another connection has their collector's id.
        Conflict = "conflict",
        /// The node knows as many collectors as it can.
        Capacity = "capacity",
    }
}

label! {
    /// Why an HTTP write was not stored.
    WriteFailure = "reason" {
        /// A parameter or a header could not be read.
        BadRequest = "bad_request",
        /// Not one metric of the body could be read.
        BadBody = "bad_body",
        /// Larger than a message may be.
        TooLarge = "too_large",
        /// An encoding nobody here can undo.
        Encoding = "encoding",
        /// The body did not come, or not in time.
        Incomplete = "incomplete",
        /// No room for what the log has not taken yet.
        Buffer = "buffer",
        /// The log did not answer in time.
        Timeout = "timeout",
        /// The log refuses it.
        Refused = "refused",
        /// The node is draining.
        Draining = "draining",
        /// Not a POST.
        Method = "method",
    }
}

label! {
    /// Why a part of the log does not reach a client.
    GapReason = "reason" {
        /// The log no longer holds it.
        Retention = "retention",
        /// The client was too slow.
        Slow = "slow",
        /// The log was created anew or went backwards.
        Reset = "reset",
        /// Lost before or inside the log.
        Source = "source",
    }
}

label! {
    /// How a client is connected.
    Transport = "transport" {
        /// A WebSocket.
        WebSocket = "websocket",
        /// Server-sent events.
        Sse = "sse",
        /// One request of a long poll.
        Poll = "poll",
    }
}

label! {
    /// How a resume ended.
    ReplayOutcome = "outcome" {
        /// Everything missed was sent.
        Recovered = "recovered",
        /// Part of it is gone, and was announced.
        Gap = "gap",
        /// The offset belongs to another incarnation of the log.
        Reset = "reset",
    }
}

impl From<crate::proto::message::GapReason> for GapReason {
    fn from(reason: crate::proto::message::GapReason) -> Self {
        use crate::proto::message::GapReason as Announced;
        match reason {
            Announced::Retention => Self::Retention,
            Announced::Slow => Self::Slow,
            Announced::Reset => Self::Reset,
            Announced::Source => Self::Source,
        }
    }
}

macro_rules! meters {
    ($($(#[$doc:meta])* $field:ident: $kind:ident $name:literal, $unit:ident, $help:literal;)+) => {
        /// Handles of every metric.
        pub struct Meters { $($(#[$doc])* #[doc = $help] pub $field: meters!(@type $kind),)+ }

        impl Meters {
            /// Describes and registers every metric with the installed recorder; without one, the handles do nothing.
            pub fn register() -> Self {
                $(meters!(@describe $kind $name, $unit, $help);)+
                Self { $($field: meters!(@register $kind $name),)+ }
            }
        }

        /// `(name, kind, unit, help)` of every metric, for the documentation.
        pub const CATALOGUE: &[(&str, &str, Unit, &str)] =
            &[$(($name, stringify!($kind), Unit::$unit, $help),)+];
    };
    (@type counter) => { Counter };
    (@type gauge) => { Gauge };
    (@type histogram) => { metrics::Histogram };
    (@type failures) => { CounterBy<ConnectFailure> };
    (@type rejections) => { CounterBy<LineRejection> };
    (@type drops) => { CounterBy<DropReason> };
    (@type write_failures) => { CounterBy<WriteFailure> };
    (@type gaps) => { CounterBy<GapReason> };
    (@type sessions) => { CounterBy<Transport> };
    (@type replays) => { CounterBy<ReplayOutcome> };
    (@describe gauge $name:literal, $unit:ident, $help:literal) => {
        metrics::describe_gauge!($name, Unit::$unit, $help)
    };
    (@describe histogram $name:literal, $unit:ident, $help:literal) => {
        metrics::describe_histogram!($name, Unit::$unit, $help)
    };
    (@describe $kind:ident $name:literal, $unit:ident, $help:literal) => {
        metrics::describe_counter!($name, Unit::$unit, $help)
    };
    (@register counter $name:literal) => { metrics::counter!($name) };
    (@register gauge $name:literal) => { metrics::gauge!($name) };
    (@register histogram $name:literal) => { metrics::histogram!($name) };
    (@register $labelled:ident $name:literal) => { CounterBy::register($name) };
}

meters! {
    connections_total: counter "ws_connections_total", Count, "Client connections accepted since the start.";
    connections_failed: failures "ws_connections_failed_total", Count, "Connections that did not come to be, by reason.";
    sessions: sessions "ws_sessions_total", Count, "Sessions begun since the start, by transport; of a long poll, each request is one.";
    connections_active: gauge "ws_connections_active", Count, "Client connections open now.";
    connections_max: gauge "ws_connections_max", Count, "Client connections this node accepts at most.";
    messages_sent: counter "ws_messages_sent_total", Count, "Messages written to clients.";
    messages_received: counter "ws_messages_received_total", Count, "Messages received from clients and collectors.";
    bytes_sent: counter "ws_bytes_sent_total", Bytes, "Bytes written to clients, framing included.";
    bytes_received: counter "ws_bytes_received_total", Bytes, "Bytes received from clients and collectors, framing included.";
    connections_deflated: gauge "ws_connections_deflated", Count, "Client connections open now that agreed on permessage-deflate.";
    compressed_bytes_in: counter "ws_compressed_bytes_in_total", Bytes, "Bytes of frames given to compression, each once however many clients get it.";
    compressed_bytes_out: counter "ws_compressed_bytes_out_total", Bytes, "What came out of it; a frame that does not get smaller counts as it was.";
    slow_clients_disconnected: counter "ws_slow_clients_disconnected_total", Count, "Clients disconnected because they did not keep up.";
    rate_limited_messages: counter "ws_rate_limited_messages_total", Count, "Client messages refused because they came too fast.";
    replay_requests: replays "ws_replay_requests_total", Count, "Resumes from an offset, by outcome.";
    log_messages_received: counter "ws_nats_messages_received_total", Count, "Envelopes received from the log, repairs included.";
    log_messages_repaired: counter "ws_log_repaired_messages_total", Count, "Envelopes that were missing in the live flow and were read from the log.";
    log_connected: gauge "ws_nats_connected", Count, "1 while the log can be reached (always 1 with the embedded log).";
    gaps: gaps "ws_gaps_total", Count, "Gaps announced to clients, by reason.";
    message_queue_size: gauge "ws_message_queue_size", Count, "Envelopes between the log's head and the slowest live session.";
    cpu_usage_percent: gauge "ws_cpu_usage_percent", Percent, "CPU this process uses, in percent of what it may use.";
    memory_bytes: gauge "ws_memory_bytes", Bytes, "Resident memory of this process.";
    memory_limit_bytes: gauge "ws_memory_limit_bytes", Bytes, "Memory this process may use: its cgroup's limit, or the machine's memory.";
    tasks_active: gauge "ws_tasks_active", Count, "Live tasks of the runtime.";
    collectors_connected: gauge "ws_collectors_connected", Count, "Collector sockets open now.";
    collector_buffered_bytes: gauge "ws_collector_buffered_bytes", Bytes, "Accepted bytes that the log has not acknowledged yet.";
    lines_accepted: counter "ws_lines_accepted_total", Count, "Metrics stored in the log.";
    lines_rejected: rejections "ws_lines_rejected_total", Count, "Lines that were not accepted, by kind.";
    envelopes_published: counter "ws_envelopes_published_total", Count, "Envelopes the log acknowledged.";
    envelopes_duplicate: counter "ws_envelopes_duplicate_total", Count, "Envelopes the log already held and did not store again.";
    envelopes_dropped: drops "ws_envelopes_dropped_total", Count, "Envelopes that had arrived and never reached the log, by reason.";
    writes_failed: write_failures "ws_writes_failed_total", Count, "HTTP writes that were not stored, by reason.";
    publish_duration: histogram "ws_publish_duration_seconds", Seconds, "From handing a batch to the log until it is acknowledged.";
    publish_retries: counter "ws_publish_retries_total", Count, "Batches published again because the log did not answer.";
    views: gauge "ws_views", Count, "Distinct views (filter, format and compression) with at least one session.";
    ring_bytes: gauge "ws_ring_bytes", Bytes, "Bytes of envelopes and frames kept for replay.";
}
