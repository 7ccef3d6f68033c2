//! Telecast relays live metrics: collectors push line protocol into **ingest**, ingest publishes to a **log**, **edges** follow
//! the log and push to any number of clients, over WebSocket, server-sent events and long polls. This page is the map; each
//! module's own page is its room.
//!
//! # The way of the data
//!
//! One direction; only demand flows back.
//!
//! ```text
//! collector ─ WebSocket, HTTP ─> ingest: read → decode, group by measurement → stamp → publish ──┐
//!                                                                                                v
//!                        the log: one stream per shard, <name>.in.<shard>.<collector>.<measurement>
//!                               │ republished on <name>.live.<shard>.…, with the sequence as a header
//!                               v
//! edge: live flow ──> sequencer (order, gap repair by range reads) ──> ring ──> views ──> writers ──> sockets
//! ```
//!
//! * An envelope carries line protocol, as Telegraf writes it. It is parsed when it is accepted and when it is first shown;
//!   nothing in between looks inside.
//! * An edge finds the views that want an envelope by an index over all filters, and encodes it once per format, as a ready
//!   WebSocket frame. Views that want all of it share this frame, others get a copy of their lines, and all clients of a view
//!   share the view. For clients that negotiated compression a frame is compressed once more, not once per client; no
//!   connection has a window.
//! * There is no queue per client. A view is a run of frames bounded in bytes, a session is a cursor on it. Live delivery,
//!   a late client and a slow client are the same thing: a cursor that has some way to go. A few writers own all sockets and
//!   sweep them, one write for whatever is pending; there is no task per client, and an idle one costs about a kilobyte.
//! * Who wants newest values instead of every one (`interval`) is a cursor on a view too. No envelope is encoded for it: the
//!   edge keeps the last value of every series, and once per interval such views get what has changed, each line encoded once
//!   for all of them. A late client gets what has changed since its place, not what was overwritten meanwhile.
//! * There is one path for all transports. A session writes to the raw socket of a WebSocket, or into a short pipe whose other
//!   end is the body of an HTTP response: events as long as the client listens, or those of one poll. (HTTP has a task per
//!   connection, these clients too.)
//! * An edge keeps the last value of every series, bounded, at the ring's newest place. A client that asks for a snapshot gets
//!   these first; what is encoded for one is shared by all who come at the same time, and given up where nobody takes it and
//!   others want the room.
//! * There is no JetStream consumer, neither per client nor per edge: an edge subscribes to what the stream republishes and
//!   repairs its own holes from the stream.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | collector | an agent that pushes metrics, known by its id: a header, a parameter, or the `host` tag of its data |
//! | metric | measurement, tags, fields, timestamp: the Influx data model |
//! | channel | `<collector>.<measurement>`: what clients filter on |
//! | envelope | one message of the log: one collector, one measurement, one or more metrics as line protocol |
//! | log | the ordered, retained sequence of envelopes, in shards; a collector always maps to the same shard |
//! | offset | a place in the log: epoch + one sequence per shard; clients carry it as an opaque token |
//! | epoch | the log's incarnation; offsets compare only within one |
//! | broker | the port to the log and the shared state: JetStream, or this process's memory |
//! | view | one distinct (filters, format, wire form, interval): frames shared by all its sessions |
//! | session | one connected client: a cursor on a view |
//! | snapshot | the last value of every series at one place of the log |
//! | gap | a range of the log that a client will not get, always announced |
//!
//! # Invariants
//!
//! 1. *Order.* What a collector sends is stored in the order accepted: each collector has one writer on a node, and a writer one
//!    batch in flight. Within a batch, metrics of one envelope keep their order; envelopes are published together, so one that
//!    the log fails to take at first may come after its neighbours.
//! 2. *No duplicates, and no value lost to looking like one.* A batch that repeats the newest one stored of its collector (every
//!    line with its own time), or carries the same key, is stored once within the dedup window; one that equals an older batch,
//!    with others in between, is new. No session gets an offset twice, resumes included.
//! 3. *No silent loss.* Whatever a session skips is announced as a gap {from, to, reason}. Of every session, published =
//!    delivered + filtered out + conflated + announced gaps, in envelopes: both sides are counted, each for itself.
//! 4. *Acknowledged means stored.* HTTP writes are answered after the log's acknowledgement.
//! 5. *Back-pressure before loss.* Accepted bytes are bounded per node; beyond the bound sockets are not read and HTTP gets
//!    503 + Retry-After.
//! 6. *A snapshot is a place.* The last values of all series are applied in the ring's order, so a snapshot is the state at one
//!    offset, and a session that begins with it goes on right behind that: nothing twice, nothing left out.
//! 7. *A resume has three ends:* everything missed is sent; a gap, then the rest; a reset, then what the new log has.
//! 8. *A slow client costs nobody else anything.* It is skipped ahead with a gap, or disconnected; memory is bounded by the
//!    views.
//! 9. *A drain loses nothing.* Not ready → still serving → collectors' batches into the log → goodbye with an offset.
//! 10. *Everything has a bound,* with its unit in its name, and every drop is counted.
//! 11. *One peer's slowness or greed costs others nothing.* What a peer begins has a deadline and is charged for what has arrived,
//!     never for what it announced; every peer has a share, and where there is no room the slowest gives way.
//!
//! Tests to begin with, for each of them:
//!
//! | | a claim that holds it |
//! |---|---|
//! | 1 | `batches_of_a_collector_are_stored_in_order_with_one_in_flight`, `order_is_per_collector_and_offsets_of_one_edge_resume_on_another_exactly_once` |
//! | 2 | `what_is_sent_again_is_stored_once_and_what_returns_is_stored_again`, `a_flush_that_is_sent_again_is_stored_once`, `thirty_hopping_clients_end_with_exactly_what_was_published_for_them` |
//! | 3 | `published_is_delivered_and_filtered_and_conflated_and_announced_gaps_whatever_happens`, `every_ledger_equals_what_was_published_whatever_happens_to_edges` |
//! | 4 | `a_write_is_answered_when_the_log_has_it_on_every_path`, `a_server_killed_while_publishing_loses_nothing_and_doubles_nothing` |
//! | 5 | `back_pressure_stops_the_reading_but_not_the_pings_and_loses_nothing`, `clients_hear_within_ten_seconds_that_a_killed_server_is_gone_and_lose_nothing` |
//! | 6 | `a_snapshot_comes_in_parts_and_leaves_the_client_without_a_place_until_the_last` |
//! | 7 | `an_offset_older_than_the_ring_is_resumed_from_the_log_without_a_seam`, `what_retention_took_is_one_gap_and_then_everything_that_is_left`, `a_log_that_was_created_anew_is_one_reset_for_who_stayed_and_for_who_comes_back` |
//! | 8 | `a_client_that_does_not_read_gets_exactly_what_its_gaps_leave_out_and_costs_others_nothing` |
//! | 9 | `a_draining_edge_delivers_through_its_grace_and_sends_clients_away_with_their_place`, `an_ingest_that_is_asked_to_stop_loses_nothing_it_accepted` |
//! | 10 | `frames_are_bounded_over_all_views_and_a_busy_view_leaves_the_others_their_share`, `a_full_node_refuses_says_when_to_come_back_and_is_not_ready` |
//! | 11 | `accounts_balance_and_only_peers_above_their_share_give_way`, `a_crowd_of_quick_peers_is_served_one_after_the_other_and_loses_nothing`, `a_write_is_stored_at_once_beside_any_number_of_bodies_that_stall`, `unfinished_messages_take_no_more_than_their_room_and_give_way_to_finished_ones`, `nobody_who_does_not_read_keeps_others_from_last_values` |
//!
//! # Where things are, in reading order
//!
//! * [`proto`]: the pure vocabulary, byte for byte. No tokio, no clock, no logs.
//! * [`broker`]: the port to the log, and its two implementations under one contract.
//! * [`ingest`]: collectors in, batches out. [`edge`]: the log in, frames out. Neither knows the other.
//! * [`fairness`]: the budget that those share who send, or take, many bytes.
//! * [`ops`]: what operators see: metrics, health, readiness, status, logs, the shape of errors; and HTTP below every role, with
//!   its listeners, limits and the WebSocket handshake.
//! * [`config`]: layers of configuration → typed, bounded settings. [`cli`]: the command line, and
//!   `status`, which asks a running node.
//! * [`demo`]: a collector of this host's metrics; a client of ingest like any other. [`load`]: the load generator, which knows a
//!   cluster only from outside.
//! * [`sync`]: locks that only a closure reaches, and the order in which they are taken.
//! * [`app`]: builds roles from settings, owns their tasks, drains them. Only it sees everything.
//!
//! `tests/layering.rs` holds the arrows between these rooms.
//!
//! Beside them, and knowing a cluster only from outside: `clients/js`, the client library for browsers and Node, whose pure core
//! decides when to connect where and from which place; `examples/python`, the same rules in one file.
//!
//! # What is deliberately absent
//!
//! * A database. The log is a bounded window for replay; queries belong to what stores metrics for good.
//! * Per-client queues, per-client encoding, per-client tasks beside HTTP's.
//! * Consumers in JetStream: it falls over at some tens of thousands of them, and resuming must not depend on one.
//! * TLS and authentication of clients: an ingress in front terminates and checks; nodes belong into a private network.
//! * A lease per collector id across ingest nodes: the rule of one writer per id holds within a node. Ids that arrive at two
//!   nodes at once are interleaved in the log, each writer's envelopes under its own revision.

pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod demo;
pub mod edge;
pub mod fairness;
pub mod ingest;
pub mod load;
pub mod ops;
pub mod proto;
pub mod sync;
