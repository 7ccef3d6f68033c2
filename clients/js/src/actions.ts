// What goes into the machine and what comes out of it.

import type { TelecastError } from "./error.js";
import type { State, Subscription, Timing, TransportName } from "./options.js";
import type { Message } from "./protocol.js";

/** One connection, so that what comes late from one that was given up is not taken for the next one's. */
export type Link = number;

/** What the shell is to do. */
export type Action =
  | { type: "open"; link: Link; transport: TransportName; url: string }
  | { type: "send"; text: string }
  | { type: "drop" }
  | { type: "probe"; url: string }
  /** Find out what HTTP says at this address, where a WebSocket did not open. */
  | { type: "ask"; question: number; url: string }
  | { type: "timer"; at: number }
  | { type: "deliver"; message: Message }
  | { type: "state"; state: State }
  | { type: "error"; error: TelecastError }
  | { type: "settle"; id: number; error?: TelecastError };

/** How a connection ended, as far as its transport tells. */
export interface End {
  /** A WebSocket's close code. */
  code?: number;
  /** For people. */
  reason?: string;
  /** The status of an HTTP answer that was no stream. */
  status?: number;
  /** The error in its body, if it had one, or the client's own. */
  error?: { code: string; message: string };
  /** `Retry-After`, or the stream's `retry`. */
  retryAfterMs?: number;
  /** Nothing was heard for too long. */
  timeout?: boolean;
  /** It failed before anything was asked of the server, and says nothing about it. */
  isOurs?: boolean;
  /** The page's policy forbids this transport to this address, which stays so. */
  isForbidden?: boolean;
}

/** What HTTP says where a WebSocket did not open. Empty: no answer. */
export interface HttpAnswer {
  status?: number;
  error?: { code: string; message: string };
  retryAfterMs?: number;
  /** There is an answer, which this page may not read. */
  isUnreadable?: boolean;
}

/** What a machine starts with. */
export interface Setup {
  urls: readonly URL[];
  subscription: Subscription;
  from?: string | undefined;
  transports: readonly TransportName[];
  timing?: Partial<Timing> | undefined;
  /** The token comes from a function, so that a refused one is no reason to give up. */
  renewsToken: boolean;
  /** The page's, if there is one: for the words of an error. */
  origin?: string | undefined;
}
