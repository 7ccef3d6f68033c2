/**
 * Live metrics from Telecast, in browsers and Node.
 *
 * @packageDocumentation
 */
export { connect, type Client, type Events } from "./client.js";
export { TelecastError } from "./error.js";
export type {
  Change,
  Options,
  State,
  Subscription,
  Timing,
  TransportName,
  WebSocketConstructor,
  WebSocketLike,
} from "./options.js";
export type {
  FieldValue,
  GapMessage,
  LinesMessage,
  LiveMessage,
  Message,
  Metric,
  MetricsMessage,
  Incomplete,
  SnapshotMessage,
  StaleMessage,
} from "./protocol.js";
export { SeriesStore, type Series, type StoreListener, type StoreOptions } from "./store.js";
