// The vocabulary of docs/protocol.md: what a server says, and what its close codes ask of a client.

/** A field's value. Integers above 2^53 lose digits, as in all JSON that JavaScript reads. */
export type FieldValue = number | string | boolean;

/** One metric: measurement, tags, fields, and when it was measured. */
export interface Metric {
  /** The measurement. */
  name: string;
  tags: Record<string, string>;
  fields: Record<string, FieldValue>;
  /** Milliseconds since 1970: what `new Date()` takes. */
  timestamp: number;
}

/** Metrics of one measurement of one collector. */
export interface MetricsMessage {
  type: "metrics";
  /** Everything up to here has come or was filtered out. */
  offset: string;
  collector: string;
  metrics: Metric[];
  /** With `interval`: what the message stands for begins behind this offset. */
  from?: string;
  /** With `interval`: how many metrics were left out because newer ones of their series came. */
  conflated?: number;
}

/** Last values of series that match, one part of several. Metrics after `offset` follow the last part. */
export interface SnapshotMessage {
  type: "snapshot";
  offset: string;
  /** From 1 to `parts`. */
  part: number;
  parts: number;
  /** Values may be missing: the edge still reads them after its start, or has no room for all of them. */
  incomplete?: Incomplete;
  collector: string;
  metrics: Metric[];
}

/** Why last values may be missing. */
export type Incomplete = "starting" | "bounds";

/** With `format: "influx"`: metrics as line protocol, with timestamps in nanoseconds. */
export interface LinesMessage {
  type: "lines";
  offset: string;
  /** Line protocol, one metric per line. */
  lines: string;
  /** Of last values (`snapshot`): which part of how many. */
  part?: number;
  parts?: number;
  /** As in {@link SnapshotMessage}. */
  incomplete?: Incomplete;
  /** As in {@link MetricsMessage}. */
  from?: string;
  conflated?: number;
}

/** What lies behind `from`, up to and including `to`, will not come. */
export interface GapMessage {
  type: "gap";
  from: string;
  to: string;
  /** `retention`: no longer held; `slow`: this client took too little; `reset`: another log; `source`: lost before the log. */
  reason: "retention" | "slow" | "reset" | "source";
  /** A snapshot at `to` follows. */
  snapshot?: true;
}

/** The log cannot be reached for so long already: silence does not mean that nothing happens. */
export interface StaleMessage {
  type: "stale";
  since_ms: number;
}

/** The log is reached again. */
export interface LiveMessage {
  type: "live";
}

/** What the asynchronous iterator gives. */
export type Message = MetricsMessage | SnapshotMessage | LinesMessage | GapMessage | StaleMessage | LiveMessage;

type Id = string | number;

/** Everything a server says. Without an offset, a place that there may be is none yet: a snapshot comes first. */
export type ServerMessage =
  | Message
  | { type: "welcome"; offset?: string; heartbeat_ms: number; node: string; session: string; matching?: number }
  | { type: "heartbeat"; offset: string }
  | { type: "ack" | "pong"; id?: Id; matching?: number }
  | { type: "error"; id?: Id; code: string; message: string }
  | { type: "goodbye"; reason: string; offset?: string; reconnect_after_ms: number };

/** Whether to come back behind a close code: never (it would end the same way), at once, or after a pause that grows. */
export const reconnect = (code: number): "no" | "at once" | "pause" =>
  // Every other code may be a proxy's, a balancer's or a browser's: they close connections of servers that are well.
  code === 1008 ? "no" : [1012, 4008, 4010].includes(code) ? "at once" : "pause";

/** One frame of a WebSocket, or the data of one event. Fails with a `SyntaxError` on what is neither. */
export const decode = (text: string): ServerMessage => {
  if (text[0] !== "#") {
    const message: unknown = JSON.parse(text);
    if (typeof message !== "object" || message === null) throw new SyntaxError("no object");
    return message as ServerMessage;
  }
  const message: LinesMessage = { type: "lines", offset: "", lines: text };
  // Comments come first: an offset, then what kind of data it is, if it is not simply what happened.
  for (let match; (match = /^# (\S+) (\S+)(?: conflated (\d+))?\r?\n?/.exec(message.lines));) {
    const [all, word, value = "", conflated] = match;
    if (word === "offset") message.offset = value;
    if (word === "snapshot") [message.part, message.parts] = value.split("/").map(Number) as [number, number];
    if (word === "incomplete") message.incomplete = value as Incomplete;
    if (word === "from") {
      message.from = value;
      message.conflated = Number(conflated);
    }
    message.lines = message.lines.slice(all.length);
  }
  return message;
};
