//! Every metric of the process: name, unit, labels and help in one table, handles resolved once.
//!
//! Names are verbatim from the dashboards and alerts people already have (`ws_…`). Label values come from closed enums:
//! no client, channel or collector id ever becomes one.

use metrics::{Counter, Gauge, Unit};

use crate::broker::{BrokerError, Cause};
use crate::proto::message::CloseCode;
use crate::proto::offset::Shard;

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

/// A label's name and every value of it.
pub type LabelValues = (&'static str, Vec<&'static str>);

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

    /// The label and its values.
    fn label() -> LabelValues {
        (L::NAME, L::ALL.iter().map(|value| value.value()).collect())
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
        /// There are as many distinct views as there may be.
        Views = "views",
    }
}

label! {
    /// Why a client gets no view of its own.
    ViewRefusal = "reason" {
        /// The node has its maximum.
        Node = "node",
        /// Clients of its address have their share.
        Address = "address",
        /// Clients of its address have new ones made too fast.
        Rate = "rate",
    }
}

label! {
    /// Why a listener refused a connection or a request, before any route saw it.
    RequestRefusal = "reason" {
        /// Its address has its maximum of connections.
        AddressConnections = "address_connections",
        /// Its address opens connections too fast.
        AddressConnects = "address_connects",
        /// Nothing was asked on it, and others needed the room.
        Pending = "pending",
        /// The process has as many connections as it may open files.
        Descriptors = "descriptors",
        /// A head that began and did not come to its end in time.
        HeaderTimeout = "header_timeout",
        /// A head, or a target, that is too large.
        HeadTooLarge = "head_too_large",
        /// Characters that a target cannot hold.
        BadTarget = "bad_target",
        /// A head that cannot be read.
        BadHead = "bad_head",
        /// `Host` is missing, there twice, or none.
        BadHost = "bad_host",
        /// A host that this node is not asked as.
        HostNotAllowed = "host_not_allowed",
        /// A page of another origin that may not do this.
        Origin = "origin",
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
        /// Of more collectors than one connection or request may bring.
        TooManyCollectors = "too_many_collectors",
        /// Of a new channel, where there are too many.
        TooManyChannels = "too_many_channels",
    }
}

label! {
    /// Why the time of a line that was stored cannot be meant.
    SuspiciousTime = "kind" {
        /// In another unit it is near the present.
        Precision = "precision",
        /// Before 2000.
        Past = "past",
        /// More than a day ahead.
        Future = "future",
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
    /// Why the log did not take a batch at an attempt.
    PublishFailure = "reason" {
        /// No connection, or it was lost before the answer.
        Disconnected = "disconnected",
        /// No acknowledgement in time over a connection that works.
        NoAnswer = "no_answer",
        /// The stream is missing or has no leader.
        NoStream = "no_stream",
        /// No room: disk, account or stream.
        Full = "full",
        /// The log does not match the configuration.
        Incompatible = "incompatible",
        /// The log will never take it.
        Refused = "refused",
        /// Anything else.
        Other = "other",
    }
}

impl From<&BrokerError> for PublishFailure {
    fn from(error: &BrokerError) -> Self {
        match error {
            BrokerError::Refused(_) => Self::Refused,
            BrokerError::Incompatible(_) => Self::Incompatible,
            BrokerError::Unavailable { cause, .. } => match cause {
                Cause::Disconnected => Self::Disconnected,
                Cause::NoAnswer => Self::NoAnswer,
                Cause::NoStream => Self::NoStream,
                Cause::Full => Self::Full,
                Cause::Other => Self::Other,
            },
        }
    }
}

label! {
    /// Why an HTTP write was not stored.
    WriteFailure = "reason" {
        /// A parameter or a header could not be read.
        BadRequest = "bad_request",
        /// Not one metric of the body could be read.
        BadBody = "bad_body",
        /// The same, because it is another protocol's.
        Foreign = "foreign",
        /// Larger than a message may be.
        TooLarge = "too_large",
        /// An encoding nobody here can undo.
        Encoding = "encoding",
        /// The body did not come, or not in time.
        Incomplete = "incomplete",
        /// The body came too slowly, or made room for others.
        Slow = "slow",
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
        /// Of more collectors, or of more new channels, than there may be.
        TooMany = "too_many",
    }
}

label! {
    /// Why what a peer had begun to send, or to take, was given up before its end.
    Cut = "reason" {
        /// Less came, or was taken, than the least.
        TooSlow = "too_slow",
        /// It was not complete in time.
        TimedOut = "timed_out",
        /// There was no room for all, and it was the slowest.
        GaveWay = "gave_way",
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
    /// Why the last value of a series is no longer kept for snapshots.
    SeriesDrop = "reason" {
        /// There are more series than may be kept: those updated least lately go.
        Count = "count",
        /// They take more bytes than they may: those updated least lately go.
        Bytes = "bytes",
        /// It was not written for longer than it is kept.
        Age = "age",
        /// The log that held it is another one now.
        Reset = "reset",
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
    /// How a client's connection ended: its close code (RFC 6455 section 7.4 and docs/protocol.md).
    ConnectionEnd = "code" {
        /// Closed as asked.
        Normal = "1000",
        /// The page was left.
        GoingAway = "1001",
        /// Frames against the rules.
        Protocol = "1002",
        /// A kind of message that is not read here.
        UnsupportedData = "1003",
        /// Without a close frame: the network, a proxy, or a client that just went.
        Abnormal = "1006",
        /// Text that is not UTF-8, or compressed data that cannot be inflated.
        InvalidData = "1007",
        /// Not allowed.
        Policy = "1008",
        /// A message too large.
        TooLarge = "1009",
        /// A fault of the server.
        Internal = "1011",
        /// The node is draining.
        Draining = "1012",
        /// The node is full or not ready.
        TryLater = "1013",
        /// Too slow for too long.
        SlowClient = "4008",
        /// The collector id has another writer.
        CollectorConflict = "4009",
        /// No answer to pings.
        Idle = "4010",
    }
}

impl From<CloseCode> for ConnectionEnd {
    fn from(code: CloseCode) -> Self {
        match code {
            CloseCode::Normal => Self::Normal,
            CloseCode::GoingAway => Self::GoingAway,
            CloseCode::Protocol => Self::Protocol,
            CloseCode::UnsupportedData => Self::UnsupportedData,
            CloseCode::InvalidData => Self::InvalidData,
            CloseCode::Policy => Self::Policy,
            CloseCode::TooLarge => Self::TooLarge,
            CloseCode::Internal => Self::Internal,
            CloseCode::Draining => Self::Draining,
            CloseCode::TryLater => Self::TryLater,
            CloseCode::SlowClient => Self::SlowClient,
            CloseCode::CollectorConflict => Self::CollectorConflict,
            CloseCode::Idle => Self::Idle,
        }
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

label! {
    /// What became of a position of the log that a session has passed.
    Fate = "fate" {
        /// Sent.
        Delivered = "delivered",
        /// Not asked for.
        Filtered = "filtered",
        /// Stood for by newer values.
        Conflated = "conflated",
        /// Part of an announced gap.
        Gap = "gap",
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

/// One gauge per shard of the log.
pub struct GaugeByShard(&'static str);

impl GaugeByShard {
    /// There is always a first shard.
    fn register(name: &'static str) -> Self {
        let gauges = Self(name);
        gauges.of(Shard(0)).set(0.0);
        gauges
    }

    /// The gauge of one shard.
    pub fn of(&self, shard: Shard) -> Gauge {
        metrics::gauge!(self.0, "shard" => shard.0.to_string())
    }

    fn label() -> LabelValues {
        ("shard", vec!["0", "1", "…"])
    }
}

/// What a metric is, for its documentation.
#[derive(Debug)]
pub struct Described {
    /// As exported.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it counts or measures in.
    pub unit: Unit,
    /// Tells its label, if it has one.
    pub label: Option<fn() -> LabelValues>,
    /// As exported.
    pub help: &'static str,
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

        /// Every metric of the table.
        pub const CATALOGUE: &[Described] = &[$(meters!(@described $kind $name, $unit, $help),)+];
    };
    (@described counter $name:literal, $unit:ident, $help:literal) => {
        Described { name: $name, kind: "counter", unit: Unit::$unit, label: None, help: $help }
    };
    (@described gauge $name:literal, $unit:ident, $help:literal) => {
        Described { name: $name, kind: "gauge", unit: Unit::$unit, label: None, help: $help }
    };
    (@described shards $name:literal, $unit:ident, $help:literal) => {
        Described {
            name: $name,
            kind: "gauge",
            unit: Unit::$unit,
            label: Some(GaugeByShard::label),
            help: $help,
        }
    };
    (@described histogram $name:literal, $unit:ident, $help:literal) => {
        Described { name: $name, kind: "histogram", unit: Unit::$unit, label: None, help: $help }
    };
    (@described $labelled:ident $name:literal, $unit:ident, $help:literal) => {
        Described {
            name: $name,
            kind: "counter",
            unit: Unit::$unit,
            label: Some(<meters!(@type $labelled)>::label),
            help: $help,
        }
    };
    (@type counter) => { Counter };
    (@type gauge) => { Gauge };
    (@type histogram) => { metrics::Histogram };
    (@type shards) => { GaugeByShard };
    (@type failures) => { CounterBy<ConnectFailure> };
    (@type refusals) => { CounterBy<RequestRefusal> };
    (@type view_refusals) => { CounterBy<ViewRefusal> };
    (@type rejections) => { CounterBy<LineRejection> };
    (@type suspicions) => { CounterBy<SuspiciousTime> };
    (@type drops) => { CounterBy<DropReason> };
    (@type publish_failures) => { CounterBy<PublishFailure> };
    (@type write_failures) => { CounterBy<WriteFailure> };
    (@type ends) => { CounterBy<ConnectionEnd> };
    (@type cuts) => { CounterBy<Cut> };
    (@type gaps) => { CounterBy<GapReason> };
    (@type series_drops) => { CounterBy<SeriesDrop> };
    (@type fates) => { CounterBy<Fate> };
    (@type sessions) => { CounterBy<Transport> };
    (@type replays) => { CounterBy<ReplayOutcome> };
    (@describe gauge $name:literal, $unit:ident, $help:literal) => {
        metrics::describe_gauge!($name, Unit::$unit, $help)
    };
    (@describe shards $name:literal, $unit:ident, $help:literal) => {
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
    (@register shards $name:literal) => { GaugeByShard::register($name) };
    (@register $labelled:ident $name:literal) => { CounterBy::register($name) };
}

meters! {
    connections_total: counter "ws_connections_total", Count, "Client connections accepted since the start.";
    connections_failed: failures "ws_connections_failed_total", Count, "Connections that did not come to be, by reason.";
    requests_refused: refusals "ws_requests_refused_total", Count, "Connections and requests that a listener refused before any route saw them, by reason.";
    sessions: sessions "ws_sessions_total", Count, "Sessions begun since the start, by transport; of a long poll, each request is one.";
    connections_closed: ends "ws_connections_closed_total", Count, "Client connections that have ended, by close code; 1006 is none.";
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
    replay_reads: counter "ws_replay_reads_total", Count, "Reads of the log for clients that begin before what this edge keeps; each is shared by all who need it.";
    replayed_bytes: counter "ws_replayed_bytes_total", Bytes, "Bytes written to clients that catch up.";
    log_messages_received: counter "ws_nats_messages_received_total", Count, "Envelopes received from the log, repairs included.";
    log_messages_repaired: counter "ws_log_repaired_messages_total", Count, "Envelopes that were missing in the live flow and were read from the log.";
    log_connected: gauge "ws_nats_connected", Count, "1 while the log can be reached (always 1 with the embedded log).";
    log_reconnects: counter "ws_nats_reconnects_total", Count, "Times the log was reached again after it had been lost.";
    log_request_duration: histogram "ws_log_request_duration_seconds", Seconds, "How long the log takes to say how far it reaches, asked every five seconds: the round trip to NATS.";
    log_first_sequence: shards "ws_log_first_sequence", Count, "The oldest sequence the log holds, by shard.";
    log_last_sequence: shards "ws_log_last_sequence", Count, "The newest sequence the log holds, by shard.";
    log_lag_messages: gauge "ws_log_lag_messages", Count, "Envelopes in the log that this edge has not got yet.";
    log_lag_seconds: gauge "ws_log_lag_seconds", Seconds, "Age of the newest envelope this edge has got, while it lags; else 0.";
    gaps: gaps "ws_gaps_total", Count, "Gaps announced to clients, by reason.";
    session_envelopes: fates "ws_session_envelopes_total", Count, "Envelopes that sessions have passed, by what became of them; settled once a second and at a session's end.";
    session_envelopes_published: counter "ws_session_envelopes_published_total", Count, "The same by the places sessions have been at: what is more or less than the sum of all fates is lost in silence, or counted wrongly.";
    delivery_latency: histogram "ws_delivery_latency_seconds", Seconds, "From ingest receiving a line until it was written to a view's clients, sampled per sweep; clocks of ingest and edge must agree.";
    message_queue_size: gauge "ws_message_queue_size", Count, "Envelopes between the log's head and the slowest live session.";
    cpu_usage_percent: gauge "ws_cpu_usage_percent", Percent, "CPU this process uses, in percent of what it may use, 0 to 100: all of it of its quota or cores, or what its worker threads use of these, whichever is more; averaged over about five seconds.";
    runtime_busy_ratio: gauge "ws_runtime_busy_ratio", Count, "Share of their time that the worker threads were busy, in the mean, 0 to 1; with time in which they waited for a core. Averaged over about five seconds.";
    memory_bytes: gauge "ws_memory_bytes", Bytes, "Resident memory of this process.";
    memory_limit_bytes: gauge "ws_memory_limit_bytes", Bytes, "Memory this process may use: its cgroup's limit, or the machine's memory.";
    tasks_active: gauge "ws_tasks_active", Count, "Live tasks of the runtime.";
    collector_channels: gauge "ws_collector_channels", Count, "Channels that this node has taken in lately.";
    collector_channels_max: gauge "ws_collector_channels_max", Count, "Channels that this node takes in at most.";
    collectors_connected: gauge "ws_collectors_connected", Count, "Collector sockets open now.";
    collector_buffered_bytes: gauge "ws_collector_buffered_bytes", Bytes, "Accepted bytes that the log has not acknowledged yet.";
    collector_buffer_bytes_max: gauge "ws_collector_buffer_bytes_max", Bytes, "Accepted bytes this node holds at most while the log does not acknowledge them.";
    receive_bytes: gauge "ws_receive_bytes", Bytes, "Bytes of writes and collectors' messages that are being received, or wait to be accepted; bounded by ws_collector_buffer_bytes_max.";
    receives_cut: cuts "ws_receives_cut_total", Count, "Writes and collectors' messages that were given up before their end, by reason.";
    lines_accepted: counter "ws_lines_accepted_total", Count, "Metrics stored in the log.";
    lines_rejected: rejections "ws_lines_rejected_total", Count, "Lines that were not accepted, by kind.";
    lines_suspicious: suspicions "ws_lines_suspicious_total", Count, "Lines that were stored although their time cannot be meant, by kind: another precision would fit, long past, or far ahead.";
    envelopes_published: counter "ws_envelopes_published_total", Count, "Envelopes the log acknowledged.";
    envelopes_duplicate: counter "ws_envelopes_duplicate_total", Count, "Envelopes the log already held and did not store again.";
    envelopes_dropped: drops "ws_envelopes_dropped_total", Count, "Envelopes that had arrived and never reached the log, by reason.";
    writes_failed: write_failures "ws_writes_failed_total", Count, "HTTP writes that were not stored, by reason.";
    publish_duration: histogram "ws_publish_duration_seconds", Seconds, "From handing a batch to the log until it is acknowledged.";
    publish_failures: publish_failures "ws_publish_failures_total", Count, "Attempts at storing a batch that failed, by reason; all but refused ones are made again.";
    publish_oldest_seconds: gauge "ws_publish_oldest_seconds", Seconds, "Age of the oldest accepted batch that the log has not acknowledged; 0 while none waits.";
    publish_stalled_seconds: gauge "ws_publish_stalled_seconds", Seconds, "For how long nothing was stored although something waits, of the shard where that is longest; else 0.";
    clock_ahead_seconds: gauge "ws_clock_ahead_seconds", Seconds, "This machine's clock minus that of the log's server, exact to half a round trip; negative where it is behind.";
    publish_retries: counter "ws_publish_retries_total", Count, "Batches published again because the log did not answer.";
    views_refused: view_refusals "ws_views_refused_total", Count, "Subscriptions that were refused because there are too many distinct views, by whose.";
    views: gauge "ws_views", Count, "Distinct views (filter, format, wire form and interval) with at least one session.";
    ring_bytes: gauge "ws_ring_bytes", Bytes, "Bytes of envelopes and of the frames all clients share, kept for replay.";
    replay_bytes: gauge "ws_replay_bytes", Bytes, "Bytes of older parts of the log, as they were read and as frames, held for clients that catch up.";
    view_bytes: gauge "ws_view_bytes", Bytes, "Bytes of frames that belong to one view each, and of the views' runs.";
    conflated_metrics: counter "ws_conflated_metrics_total", Count, "Metrics that clients with an interval did not get because a newer value of their series took their place, summed over these clients.";
    snapshots: counter "ws_snapshots_total", Count, "Snapshots sent to clients, whole.";
    snapshot_held_bytes: gauge "ws_snapshot_held_bytes", Bytes, "Bytes of encoded snapshots and last values that clients are taking.";
    snapshots_cut: cuts "ws_snapshots_cut_total", Count, "Encoded snapshots and last values that were given up because nobody took them, by reason.";
    snapshot_series: gauge "ws_snapshot_series", Count, "Series whose last value is kept.";
    snapshot_bytes: gauge "ws_snapshot_bytes", Bytes, "What these values take.";
    snapshot_series_dropped: series_drops "ws_snapshot_series_dropped_total", Count, "Series whose last value is no longer kept, by reason.";
}
