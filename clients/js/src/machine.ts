// The pure core: what happened, the time and chance go in, actions come out. It touches no socket, no timer and no clock.

import { address } from "./address.js";
import { TelecastError } from "./error.js";
import { reconnect, type Message, type ServerMessage } from "./protocol.js";
import {
  DEFAULT_TIMING,
  type Change,
  type State,
  type Subscription,
  type Timing,
  type TransportName,
} from "./options.js";

/** One connection, so that what comes late from one that was given up is not taken for the next one's. */
export type Link = number;

/** What the shell is to do. */
export type Action =
  | { type: "open"; link: Link; transport: TransportName; url: string }
  | { type: "send"; text: string }
  | { type: "drop" }
  | { type: "probe"; url: string }
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
}

/** Something the user asked for that the server has not agreed to yet. */
interface Wish {
  id: number;
  change: Change;
  sent: boolean;
  /** It is part of the address of a stream of events, where nothing can be said: what to go back to if that does not open. */
  before?: { subscription: Subscription; from: string | undefined; offset: string | undefined };
}

/** A timer that is later than this was held up: the machine slept or the tab was frozen. */
const JUMP_MS = 2_000;
/** So often at least the clock is looked at, or a sleep would be noticed late: timers do not count while a machine sleeps. */
const TICK_MS = 5_000;
/** Attempts that fail before they open, until the other transport is tried. */
const BLOCKED_AFTER = 2;
/** Before `welcome` says it. */
const HEARTBEAT_MS = 15_000;

const isPlace = (from: string): boolean => !/^(latest|earliest|-\d+(ms|[smh]))$/.test(from);

export class Machine {
  /** Behind what was received: where a new connection resumes. */
  offset: string | undefined;
  state: State = { state: "waiting", attempt: 0, delayMs: 0 };

  readonly #setup: Setup;
  readonly #random: () => number;
  readonly #act: (action: Action) => void;
  readonly #timing: Timing;
  #subscription: Subscription;
  /** Where to begin if that is no offset, or one that was not reached yet. It wins over `offset`. */
  #from: string | undefined;
  #link: Link = 0;
  #url = 0;
  #transport: TransportName;
  /** Failures since a connection was stable. */
  #attempt = 0;
  /** WebSockets in a row that did not open. */
  #blocked = 0;
  #heartbeatMs = HEARTBEAT_MS;
  #heardAt = 0;
  #openedAt = 0;
  #timerAt = Infinity;
  /** When a connection that does not open is given up, an unanswered ping is, or the next attempt is due. */
  #deadline = Infinity;
  #probeAt = Infinity;
  #goodbyeUntil: number | undefined;
  /** Between the news of a snapshot and its last part there is no place to resume at. */
  #inSnapshot = false;
  #wishes: Wish[] = [];
  #wishId = 0;

  constructor(setup: Setup, random: () => number, act: (action: Action) => void) {
    this.#setup = setup;
    this.#random = random;
    this.#act = act;
    this.#subscription = setup.subscription;
    this.#timing = { ...DEFAULT_TIMING, ...setup.timing };
    this.#transport = setup.transports[0] ?? "sse";
    this.#begin(setup.from);
  }

  /** Whether this connection is still wanted. */
  isCurrent(link: Link): boolean {
    return link === this.#link;
  }

  /** Or about to be. */
  get #isConnected(): boolean {
    return this.state.state === "open" || this.state.state === "connecting";
  }

  get isClosed(): boolean {
    return this.state.state === "closed";
  }

  /** Connects, at first or after {@link pause}. */
  start(now: number): void {
    if (!this.isClosed) this.#connect(now);
  }

  /** Stops until {@link start}. Returns false inside a snapshot: one that is never read to its end would come again and again. */
  pause(): boolean {
    if (this.#inSnapshot || !this.#isConnected) return false;
    this.#leave();
    this.#become({ state: "paused" });
    return true;
  }

  close(error?: TelecastError): void {
    if (this.isClosed) return;
    this.#leave();
    this.#become({ state: "closed", ...(error && { error }) });
    const settled = error ?? new TelecastError("closed", "the client was closed");
    for (const { id } of this.#wishes.splice(0)) this.#act({ type: "settle", id, error: settled });
    if (error) this.#act({ type: "error", error });
  }

  /** Asks for another subscription or place. Its end is told by `settle` with the number that is returned. */
  change(change: Change, now: number): number {
    const wish: Wish = { id: ++this.#wishId, change, sent: false };
    this.#wishes.push(wish);
    if (this.state.state === "open") {
      if (this.#transport === "websocket") this.#send(wish);
      // Nothing can be said on a stream of events: what it should be is in its address.
      else this.#connect(now);
    }
    return wish.id;
  }

  /** Bytes came that are no message. */
  heard(link: Link, now: number): void {
    if (link !== this.#link) return;
    this.#heardAt = now;
    if (this.state.state === "open") this.#deadline = Infinity;
    this.#arm(now);
  }

  message(link: Link, message: ServerMessage, now: number): void {
    if (link !== this.#link) return;
    this.heard(link, now);
    switch (message.type) {
      case "welcome":
        return this.#welcome(message.offset, message.heartbeat_ms, now);
      case "ack":
      case "error":
        return this.#answered(message);
      case "goodbye":
        this.#goodbyeUntil = now + message.reconnect_after_ms;
        if (message.offset) this.#reach(message.offset);
        return;
      case "heartbeat":
        return this.#reach(message.offset);
      case "gap":
        this.#reach(message.snapshot ? undefined : message.to);
        break;
      case "metrics":
        this.#reach(message.offset);
        break;
      case "snapshot":
      case "lines":
        this.#reach(message.part === message.parts ? message.offset : undefined);
        break;
      case "stale":
      case "live":
        break;
      default:
        // Of a newer server; `pong` was heard above.
        return;
    }
    this.#act({ type: "deliver", message });
  }

  /** A connection ended, or did not come about. */
  lost(link: Link, end: End, now: number): void {
    if (link !== this.#link || !this.#isConnected) return;
    const wasOpen = this.state.state === "open";
    const { status } = end;
    if (status === 400 && this.#refused(end)) return this.#connect(now);
    // On a WebSocket that did not open, the code is the browser's and says nothing, unless only a server gives it.
    const final = end.code === 1008 || (wasOpen && end.code !== undefined && reconnect(end.code) === "no");
    const code =
      end.error?.code ?? (status === undefined ? (end.code ? `close_${end.code}` : "lost") : `http_${status}`);
    const text = end.error?.message || end.reason || (wasOpen ? `the connection broke (${code})` : "it does not open");
    if (final || status === 400 || ((status === 401 || status === 403) && !this.#setup.renewsToken)) {
      return this.close(new TelecastError(code, text, true));
    }
    if (wasOpen && now - this.#openedAt >= this.#timing.stableMs) this.#attempt = 0;
    if (!wasOpen) this.#turn(end.timeout === true);
    this.#url = (this.#url + 1) % this.#setup.urls.length;
    this.#wait(this.#pauseAfter(end, wasOpen, now), text, now);
    if (end.error) this.#act({ type: "error", error: new TelecastError(code, text) });
  }

  /** Whether a WebSocket got through, while this client reads a stream of events. */
  probed(opened: boolean, now: number): void {
    if (this.state.state !== "open" || this.#transport !== "sse") return;
    if (opened) {
      this.#transport = "websocket";
      this.#blocked = 0;
      this.#connect(now);
    } else {
      this.#planProbe(now);
      this.#arm(now);
    }
  }

  /** The timer rang. */
  tick(now: number): void {
    const jumped = now - this.#timerAt > JUMP_MS || now < this.#heardAt;
    this.#timerAt = Infinity;
    if (jumped) return this.wake(now);
    const { state } = this.state;
    if (state === "waiting" && now >= this.#deadline) return this.#connect(now);
    const silentSince = state === "open" && now >= this.#heardAt + this.#silenceMs();
    if (this.#isConnected && (silentSince || now >= this.#deadline)) {
      return this.lost(this.#link, { reason: "nothing was heard for too long", timeout: true }, now);
    }
    if (state === "open" && now >= this.#probeAt) {
      this.#probeAt = Infinity;
      // A trial of whether WebSockets get through needs no history.
      this.#act({
        type: "probe",
        url: address(this.#base(), "websocket", { ...this.#subscription, snapshot: false }, undefined),
      });
    }
    this.#arm(now);
  }

  /** The tab is looked at again, the network is back, or time has jumped: what was open may be long dead. */
  wake(now: number): void {
    const { state } = this.state;
    const silent = now >= this.#heardAt + this.#heartbeatMs;
    if (state === "open" && this.#transport === "websocket") {
      if (this.#deadline === Infinity) {
        this.#deadline = now + this.#timing.pongTimeoutMs;
        this.#act({ type: "send", text: '{"type":"ping"}' });
      }
      this.#heardAt = now;
    } else if (
      state === "waiting" ||
      (state === "connecting" && now >= this.#deadline) ||
      (state === "open" && silent)
    ) {
      // Nobody can be asked on a stream of events, and resuming costs little.
      return this.#connect(now);
    }
    // A clock that was set back would keep it alive for as long.
    this.#heardAt = Math.min(this.#heardAt, now);
    this.#arm(now);
  }

  #welcome(offset: string | undefined, heartbeatMs: number, now: number): void {
    this.#heartbeatMs = heartbeatMs;
    this.#openedAt = now;
    this.#goodbyeUntil = undefined;
    if (this.#transport === "websocket") this.#blocked = 0;
    else this.#planProbe(now);
    this.#reach(offset);
    this.#deadline = Infinity;
    this.#become({ state: "open", transport: this.#transport, url: this.#base().href });
    for (const wish of this.#wishes.filter(({ before }) => before)) this.#settle(wish);
    if (this.#transport === "websocket") this.#wishes.forEach((wish) => this.#send(wish));
    else if (this.#wishes.length > 0) return this.#connect(now);
    this.#arm(now);
  }

  #answered(message: Extract<ServerMessage, { type: "ack" | "pong" | "error" }>): void {
    const wish = this.#wishes.find(({ id }) => id === message.id);
    const error = message.type === "error" ? new TelecastError(message.code, message.message) : undefined;
    if (!wish) {
      if (error) this.#act({ type: "error", error });
    } else {
      if (!error) this.#apply(wish);
      this.#settle(wish, error);
    }
  }

  /** What was asked for in an address that did not open is not agreed on. Returns the wishes in it. */
  #takeBack(): Wish[] {
    const carried = this.#wishes.filter(({ before }) => before);
    const before = carried[0]?.before;
    if (before) ({ subscription: this.#subscription, from: this.#from, offset: this.offset } = before);
    for (const wish of carried) delete wish.before;
    return carried;
  }

  /** Whether what a server refused were wishes, so that there is something to go back to. */
  #refused(end: End): boolean {
    const carried = this.#takeBack();
    const { code = "http_400", message = "the server refused it" } = end.error ?? {};
    for (const wish of carried) this.#settle(wish, new TelecastError(code, message));
    return carried.length > 0;
  }

  #settle(wish: Wish, error?: TelecastError): void {
    this.#wishes = this.#wishes.filter((other) => other !== wish);
    this.#act({ type: "settle", id: wish.id, ...(error && { error }) });
  }

  #send(wish: Wish): void {
    if (wish.sent) return;
    wish.sent = true;
    this.#act({ type: "send", text: JSON.stringify({ type: "subscribe", id: wish.id, ...wish.change }) });
  }

  #apply({ change: { from, ...rest } }: Wish): void {
    this.#subscription = { ...this.#subscription, ...rest };
    // Last values are those of now, unless another place was asked for.
    from ??= this.#subscription.snapshot ? "latest" : undefined;
    if (from !== undefined) this.#begin(from);
  }

  #begin(from: string | undefined): void {
    const place = from !== undefined && isPlace(from);
    this.#from = place ? undefined : from;
    if (place) this.offset = from;
  }

  /** A new connection to the current address, whatever there was. */
  #connect(now: number): void {
    this.#takeBack();
    for (const wish of this.#wishes) {
      wish.sent = false;
      if (this.#transport === "websocket") continue;
      wish.before = { subscription: this.#subscription, from: this.#from, offset: this.offset };
      this.#apply(wish);
    }
    const transport = this.#transport;
    const url = address(this.#base(), transport, this.#subscription, this.#from ?? this.offset);
    this.#leave();
    this.#inSnapshot = false;
    this.#goodbyeUntil = undefined;
    this.#heardAt = now;
    this.#deadline = now + this.#timing.connectTimeoutMs;
    this.#act({ type: "open", link: this.#link, transport, url });
    this.#become({ state: "connecting", transport, url: this.#base().href, attempt: this.#attempt });
    this.#arm(now);
  }

  /** Every way to a state other than `open` begins here. {@link #become} ends it: who is told may close the client. */
  #leave(): void {
    this.#link += 1;
    this.#deadline = this.#probeAt = Infinity;
    if (this.#isConnected) this.#act({ type: "drop" });
    this.#act({ type: "timer", at: (this.#timerAt = Infinity) });
  }

  #wait(delayMs: number, reason: string, now: number): void {
    this.#leave();
    this.#deadline = now + delayMs;
    this.#become({ state: "waiting", attempt: this.#attempt, delayMs, reason });
    this.#arm(now);
  }

  /** Full jitter: clients that were cut off together do not come back together. */
  #pauseAfter(end: End, wasOpen: boolean, now: number): number {
    if (this.#goodbyeUntil !== undefined) return Math.max(0, this.#goodbyeUntil - now);
    const atOnce = end.timeout || (end.code !== undefined && reconnect(end.code) === "at once");
    if (wasOpen && atOnce && this.#attempt === 0) {
      this.#attempt = 1;
      return 0;
    }
    const { backoffBaseMs, backoffMaxMs } = this.#timing;
    const pause = this.#random() * Math.min(backoffMaxMs, backoffBaseMs * 2 ** this.#attempt++);
    return pause + (end.retryAfterMs ?? 0);
  }

  /** Which transport the next attempt takes, behind one that did not open. */
  #turn(timeout: boolean): void {
    if (this.#setup.transports.length < 2) return;
    if (this.#transport === "websocket") {
      // One that hangs is what a proxy does that knows no WebSockets; it costs more time than a refusal, so once is enough.
      this.#blocked += timeout ? BLOCKED_AFTER : 1;
      if (this.#blocked >= BLOCKED_AFTER) this.#transport = "sse";
    } else {
      this.#blocked = 0;
      this.#transport = "websocket";
    }
  }

  #planProbe(now: number): void {
    const { websocketRetryMs } = this.#timing;
    this.#probeAt = this.#setup.transports.includes("websocket")
      ? now + websocketRetryMs * (0.5 + this.#random())
      : Infinity;
  }

  /** Everything up to there has come; nowhere, inside a snapshot: one that breaks off is met again from where it began. */
  #reach(offset: string | undefined): void {
    this.#inSnapshot = offset === undefined;
    if (offset === undefined) return;
    this.offset = offset;
    this.#from = undefined;
  }

  #silenceMs(): number {
    return 2 * this.#heartbeatMs + this.#timing.livenessMarginMs;
  }

  #base(): URL {
    return this.#setup.urls[this.#url] as URL;
  }

  #become(state: State): void {
    this.state = state;
    this.#act({ type: "state", state });
  }

  #arm(now: number): void {
    const { state } = this.state;
    if (state === "paused" || state === "closed") return;
    const silent = state === "open" ? this.#heardAt + this.#silenceMs() : Infinity;
    // What is overdue is due now: a time in the past would look like another jump.
    const at = Math.max(now, Math.min(this.#deadline, this.#probeAt, silent, now + TICK_MS));
    // Set again with each message, a timer would cost more than the message: an earlier one that rings in vain does no harm.
    if (this.#timerAt <= at && this.#timerAt >= now) return;
    this.#timerAt = at;
    this.#act({ type: "timer", at });
  }
}
