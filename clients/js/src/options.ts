import type { TelecastError } from "./error.js";

/** How to reach a server. WebSockets are preferred; where they are blocked, a stream of server-sent events brings the same. */
export type TransportName = "websocket" | "sse";

/** What to get. */
export interface Subscription {
  /** `*.cpu`, `web-01.*`, `*.disk{path=/}`: what any of them lets through comes. Without one: everything. */
  filter?: string | readonly string[] | undefined;
  /** Last values of everything that matches come first, then what follows them. */
  snapshot?: boolean | undefined;
  /** Milliseconds: at most one value per series in so long, the newest. */
  interval?: number | undefined;
  /** `influx`: line protocol with nanoseconds, in `lines` messages. */
  format?: "json" | "influx" | undefined;
}

/** What {@link Client.subscribe} changes; what is left out stays as it is. */
export interface Change extends Subscription {
  /** An offset, `latest`, `earliest` or a time span like `-30s`. */
  from?: string | undefined;
}

/** Times, in milliseconds. The built-in ones fit the servers' defaults. */
export interface Timing {
  /** A token function that has given nothing by then is asked again later (30 s). */
  tokenTimeoutMs: number;
  /** An attempt that is not welcomed by then has failed (10 s). It begins when the token is there. */
  connectTimeoutMs: number;
  /** The n-th pause is random, up to this × 2ⁿ (1 s) … */
  backoffBaseMs: number;
  /** … and this (30 s). */
  backoffMaxMs: number;
  /** A connection that held for so long ends the count of failures (10 s). */
  stableMs: number;
  /** A connection is dead when nothing came for two heartbeats and this (5 s). */
  livenessMarginMs: number;
  /** After a sleep: dead, when the answer to a ping is not there by then (5 s). */
  pongTimeoutMs: number;
  /** On SSE: about so often it is seen whether WebSockets get through again (60 s). */
  websocketRetryMs: number;
}

/** @internal */
export const DEFAULT_TIMING: Timing = {
  tokenTimeoutMs: 30_000,
  connectTimeoutMs: 10_000,
  backoffBaseMs: 1_000,
  backoffMaxMs: 30_000,
  stableMs: 10_000,
  livenessMarginMs: 5_000,
  pongTimeoutMs: 5_000,
  websocketRetryMs: 60_000,
};

/** What is given of some options: those that are `undefined` are left out. @internal */
export const given = <T extends object>(options: T): { [Name in keyof T]?: NonNullable<T[Name]> } =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value != null)) as T;

/** A constructor of WebSockets as browsers have it: the `ws` package's does, too. */
export type WebSocketConstructor = new (url: string, protocols?: string[]) => WebSocketLike;

/** The part of a WebSocket that is used here. */
export interface WebSocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number): void;
  /** The `ws` package's: ends it without waiting for the peer. */
  terminate?: (() => void) | undefined;
}

/** What {@link connect} takes. */
export interface Options extends Change {
  /** `https://host`, `wss://host/ws`, or with a path before it; in browsers also relative to the page. */
  url?: string | URL | undefined;
  /** Several edges: tried in turn, from the first on. */
  urls?: readonly (string | URL)[] | undefined;
  /** A bearer token, or what gives one for each connection. It goes into headers, never into an address. */
  token?: string | (() => string | Promise<string>) | undefined;
  /** Which transports may be used: the first is preferred. Built-in: both; without a WebSocket constructor, only SSE. */
  transports?: readonly TransportName[] | undefined;
  /** Instead of `globalThis.WebSocket`, which Node has from version 22 on. */
  WebSocket?: WebSocketConstructor | undefined;
  /** Instead of `globalThis.fetch`. */
  fetch?: typeof globalThis.fetch | undefined;
  /** Messages that may wait for the asynchronous iterator (4096). At that many the connection is closed, to be resumed later. */
  bufferMax?: number | undefined;
  /** The same in bytes of text (16 MiB): whichever is reached first. */
  bufferBytesMax?: number | undefined;
  timing?: { [Name in keyof Timing]?: Timing[Name] | undefined } | undefined;
}

/** What a client is doing. */
export type State =
  | { state: "connecting"; transport: TransportName; url: string; attempt: number }
  | { state: "open"; transport: TransportName; url: string }
  /** Between two attempts. `reason` is for people. */
  | { state: "waiting"; attempt: number; delayMs: number; reason?: string }
  /** The reader of the asynchronous iterator is behind: the connection is resumed when it has caught up. */
  | { state: "paused" }
  /** For good. */
  | { state: "closed"; error?: TelecastError };
