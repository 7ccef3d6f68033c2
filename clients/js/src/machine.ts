// The pure core: what happened, the time and chance go in, actions come out. It touches no socket, no timer and no clock.

import type { Action, End, HttpAnswer, Link, Setup } from "./actions.js";
import { address } from "./address.js";
import { Choice } from "./choice.js";
import { TelecastError } from "./error.js";
import { DEFAULT_TIMING, type Change, type State, type Subscription, type Timing } from "./options.js";
import { reconnect, type ServerMessage } from "./protocol.js";
import { Wishes } from "./wishes.js";

/** A timer that is later than this was held up: the machine slept or the tab was frozen. */
const JUMP_MS = 2_000;
/** So often at least the clock is looked at, or a sleep would be noticed late: timers do not count while a machine sleeps. */
const TICK_MS = 5_000;
/** Answers in a row that the page may not read, until that is told. */
const UNREADABLE_AFTER = 2;
/** A server that reads no more messages for now says so; those of this client wait for so long. */
const RATE_LIMITED_MS = 1_000;
/** A longer order to wait is taken for a mistake. */
const ORDER_MS_MAX = 3_600_000;
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
  readonly #choice: Choice;
  /** Failures since a connection was stable. */
  #attempt = 0;
  /** The last question to HTTP. */
  #question = 0;
  #unreadable = 0;
  /** The code that HTTP refused with, and that was told. */
  #told: string | undefined;
  /** What the server refused last, in case that it closes the connection for it. */
  #refusal: { code: string; message: string } | undefined;
  #heartbeatMs = HEARTBEAT_MS;
  #heardAt = 0;
  #openedAt = 0;
  #timerAt = Infinity;
  /** When a connection that does not open is given up, an unanswered ping is, or the next attempt is due. */
  #deadline = Infinity;
  #probeAt = Infinity;
  #goodbyeUntil: number | undefined;
  /** How long a server ordered to wait, whatever happens here. */
  #orderedUntil = 0;
  /** The token is there, and the connection on its way. */
  #isDialled = false;
  /** Between the news of a snapshot and its last part there is no place to resume at. */
  #inSnapshot = false;
  readonly #wishes: Wishes;
  /** When the next change may be said; on a stream of events, when it is opened anew for it. */
  #sayAt = Infinity;

  constructor(setup: Setup, random: () => number, act: (action: Action) => void) {
    this.#setup = setup;
    this.#random = random;
    this.#act = act;
    this.#subscription = setup.subscription;
    this.#timing = { ...DEFAULT_TIMING, ...setup.timing };
    this.#choice = new Choice(setup);
    this.#wishes = new Wishes((id, error) => act({ type: "settle", id, ...(error && { error }) }));
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
    this.#wishes.end(error ?? new TelecastError("closed", "the client was closed"));
    if (error) this.#act({ type: "error", error });
  }

  /** Asks for another subscription or place. Its end is told by `settle` with the number that is returned. */
  change(change: Change, now: number): number {
    const id = this.#wishes.add(change);
    if (this.state.state === "open") {
      if (this.#choice.transport === "websocket") {
        this.#say(now);
      } else {
        // Nothing can be said on a stream of events: what it should be is in its address. Several changes at once are one.
        this.#sayAt = now;
        this.#arm(now);
      }
    }
    return id;
  }

  /** The token is there: from now on it is the server's turn. */
  dialled(link: Link, now: number): void {
    if (link !== this.#link || this.state.state !== "connecting") return;
    this.#isDialled = true;
    this.#deadline = now + this.#timing.connectTimeoutMs;
    this.#arm(now);
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
    if (message.type !== "error") this.#refusal = undefined;
    switch (message.type) {
      case "welcome":
        return this.#welcome(message.offset, message.heartbeat_ms, now);
      case "ack":
      case "error":
        return this.#answered(message, now);
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
    const { status, isForbidden, isOurs } = end;
    const carried = status === 400 ? this.#takeBack() : undefined;
    if (carried) {
      const { code = "http_400", message = "the server refused it" } = end.error ?? {};
      this.#wishes.refuse(carried, new TelecastError(code, message));
      return this.#connect(now);
    }
    const isRefusal = end.code !== undefined && reconnect(end.code) === "no";
    // One that was told on an open connection is news only if that ended for it.
    const error = end.error ?? (isRefusal || !wasOpen ? this.#refusal : undefined);
    const code = error?.code ?? (status === undefined ? (end.code ? `close_${end.code}` : "lost") : `http_${status}`);
    const text = error?.message || end.reason || (wasOpen ? `the connection broke (${code})` : "it does not open");
    // On a WebSocket that did not open, most codes are the browser's and say nothing.
    if (isRefusal || this.#isFinal(status) || (isForbidden && this.#choice.forbid(this.#base())))
      return this.close(new TelecastError(code, text, true));
    if (wasOpen && now - this.#openedAt >= this.#timing.stableMs) this.#attempt = 0;
    const mayBeBlocked = this.#choice.transport === "websocket" && !wasOpen && !isOurs && !error;
    const url = address(this.#base(), "sse", this.#subscription, this.#from ?? this.offset);
    if (!wasOpen && !isOurs) this.#choice.failed(end);
    if (!isOurs) this.#url = (this.#url + 1) % this.#setup.urls.length;
    this.#wait(this.#pauseAfter(end, wasOpen, now), text, now);
    if (error) this.#act({ type: "error", error: new TelecastError(code, text) });
    if (mayBeBlocked && this.state.state === "waiting") {
      this.#act({ type: "ask", question: ++this.#question, url });
    }
  }

  /** What HTTP said where a WebSocket did not open. */
  answered(question: number, { status, error, retryAfterMs, isUnreadable }: HttpAnswer, now: number): void {
    const { state } = this.state;
    if (question !== this.#question || !(state === "waiting" || state === "connecting")) return;
    if (error && this.#isFinal(status)) return this.close(new TelecastError(error.code, error.message, true));
    this.#choice.answered(status !== undefined && status >= 200 && status < 300);
    if (this.state.state === "waiting" && (error || retryAfterMs !== undefined)) {
      this.#orderedUntil = Math.max(this.#orderedUntil, now + Math.min(retryAfterMs ?? 0, ORDER_MS_MAX));
      if (retryAfterMs !== undefined) {
        this.#deadline = Math.max(this.#deadline, this.#orderedUntil + this.#random() * this.#timing.backoffBaseMs);
      }
      const reason = error?.message ?? this.state.reason;
      this.#become({ ...this.state, delayMs: this.#deadline - now, ...(reason && { reason }) });
      this.#arm(now);
    }
    // A full node is no fault; whatever else it is, it is told once.
    if (error && status !== 503 && this.#told !== error.code) {
      this.#told = error.code;
      this.#act({ type: "error", error: new TelecastError(error.code, error.message) });
    }
    this.#unreadable = isUnreadable ? this.#unreadable + 1 : 0;
    if (this.#unreadable === UNREADABLE_AFTER && !this.#choice.hasWorked) {
      const page = this.#setup.origin ?? "this page's origin";
      const text = `the node answers, but opens no WebSocket for this page and hides why: for pages of ${page} to read from it, list that origin in \`server.cors_origins\` or \`server.allowed_origins\` of the node (one that is full looks the same)`;
      this.#act({ type: "error", error: new TelecastError("refused_page", text) });
    }
  }

  /** Whether a WebSocket got through, while this client reads a stream of events. */
  probed(opened: boolean, now: number): void {
    if (this.state.state !== "open" || this.#choice.transport !== "sse") return;
    if (opened) {
      this.#choice.transport = "websocket";
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
      const noToken = { code: "token", message: "there is no token: the function for it does not come to an end" };
      const isOurs = state === "connecting" && !this.#isDialled;
      const end = isOurs ? { isOurs, error: noToken } : { reason: "nothing was heard for too long", timeout: true };
      return this.lost(this.#link, end, now);
    }
    if (state === "open" && now >= this.#sayAt) {
      this.#sayAt = Infinity;
      if (this.#choice.transport === "sse") return this.#connect(now);
      this.#say(now);
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
    if (state === "open" && this.#choice.transport === "websocket") {
      if (this.#deadline === Infinity) {
        this.#deadline = now + this.#timing.pongTimeoutMs;
        this.#act({ type: "send", text: '{"type":"ping"}' });
      }
      this.#heardAt = now;
    } else if (this.state.state === "waiting") {
      // A clock that was set back would make it wait for as long.
      this.#orderedUntil = Math.min(this.#orderedUntil, now + this.state.delayMs);
      this.#deadline = Math.min(this.#deadline, now + this.state.delayMs);
      // What a server ordered holds, whatever happens here: not all that were sent away may come at once.
      if (now >= this.#orderedUntil) return this.#connect(now);
    } else if ((state === "connecting" && now >= this.#deadline) || (state === "open" && silent)) {
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
    this.#goodbyeUntil = this.#told = undefined;
    this.#choice.opened();
    this.#unreadable = 0;
    this.#planProbe(now);
    this.#reach(offset);
    this.#deadline = Infinity;
    this.#become({ state: "open", transport: this.#choice.transport, url: this.#base().href });
    const carried = this.#wishes.takeBack();
    if (carried) this.#wishes.agree(carried);
    if (this.#choice.transport === "websocket") this.#say(now);
    else if (!this.#wishes.isEmpty) return this.#connect(now);
    this.#arm(now);
  }

  #answered(message: Extract<ServerMessage, { type: "ack" | "pong" | "error" }>, now: number): void {
    const said = this.#wishes.answered(message.id);
    if (message.type !== "error") {
      if (!said) return;
      this.#apply(said.change);
      this.#wishes.agree(said);
      return this.#say(now);
    }
    const { code, message: text } = message;
    if (!said) {
      this.#refusal = { code, message: text };
      // Before `welcome` it says why the connection is about to be closed.
      if (this.state.state === "open") this.#act({ type: "error", error: new TelecastError(code, text) });
      return;
    }
    if (code === "rate_limited") {
      this.#sayAt = now + RATE_LIMITED_MS;
      return this.#arm(now);
    }
    this.#wishes.refuse(said, new TelecastError(code, text));
    this.#say(now);
  }

  /** What was asked for in an address that did not open is not agreed on. */
  #takeBack(): ReturnType<Wishes["takeBack"]> {
    const carried = this.#wishes.takeBack();
    if (carried) ({ subscription: this.#subscription, from: this.#from, offset: this.offset } = carried.before);
    return carried;
  }

  #say(now: number): void {
    if (this.#sayAt < Infinity || this.state.state !== "open") return;
    const request = this.#wishes.say();
    if (!request) return;
    this.#act({ type: "send", text: JSON.stringify({ type: "subscribe", id: request.id, ...request.change }) });
    this.#arm(now);
  }

  #apply({ from, ...rest }: Change): void {
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
    if (this.#choice.transport === "sse" && !this.#wishes.isEmpty) {
      this.#apply(this.#wishes.carry({ subscription: this.#subscription, from: this.#from, offset: this.offset }));
    }
    const { transport } = this.#choice;
    const url = address(this.#base(), transport, this.#subscription, this.#from ?? this.offset);
    this.#leave();
    this.#inSnapshot = this.#isDialled = false;
    this.#goodbyeUntil = this.#refusal = undefined;
    this.#heardAt = now;
    this.#deadline = now + this.#timing.tokenTimeoutMs;
    this.#act({ type: "open", link: this.#link, transport, url });
    this.#become({ state: "connecting", transport, url: this.#base().href, attempt: this.#attempt });
    this.#arm(now);
  }

  /** Every way to a state other than `open` begins here. {@link #become} ends it: who is told may close the client. */
  #leave(): void {
    this.#link += 1;
    this.#deadline = this.#probeAt = this.#sayAt = Infinity;
    this.#wishes.unsaid();
    if (this.#isConnected) this.#act({ type: "drop" });
    this.#act({ type: "timer", at: (this.#timerAt = Infinity) });
  }

  #wait({ delayMs, orderedMs }: { delayMs: number; orderedMs: number }, reason: string, now: number): void {
    this.#leave();
    this.#deadline = now + delayMs;
    this.#orderedUntil = now + orderedMs;
    this.#become({ state: "waiting", attempt: this.#attempt, delayMs, reason });
    this.#arm(now);
  }

  /** How long to wait for the next attempt, and what of it a server ordered. */
  #pauseAfter(end: End, wasOpen: boolean, now: number): { delayMs: number; orderedMs: number } {
    if (this.#goodbyeUntil !== undefined) {
      const orderedMs = Math.min(Math.max(0, this.#goodbyeUntil - now), ORDER_MS_MAX);
      return { delayMs: orderedMs, orderedMs };
    }
    const orderedMs = Math.min(end.retryAfterMs ?? 0, ORDER_MS_MAX);
    // The other transport can be tried at once: nobody was asked yet.
    if (end.isForbidden) return { delayMs: 0, orderedMs };
    const atOnce = end.timeout || (end.code !== undefined && reconnect(end.code) === "at once");
    if (wasOpen && atOnce && this.#attempt === 0) {
      this.#attempt = 1;
      return { delayMs: orderedMs, orderedMs };
    }
    // Full jitter: clients that were cut off together do not come back together.
    const { backoffBaseMs, backoffMaxMs } = this.#timing;
    const pause = this.#random() * Math.min(backoffMaxMs, backoffBaseMs * 2 ** this.#attempt++);
    return { delayMs: pause + orderedMs, orderedMs };
  }

  /** Whether a server answered with what every further attempt would get, too. */
  #isFinal(status: number | undefined): boolean {
    return status === 400 || ((status === 401 || status === 403) && !this.#setup.renewsToken);
  }

  #planProbe(now: number): void {
    const { websocketRetryMs } = this.#timing;
    this.#probeAt = this.#choice.wantsBack ? now + websocketRetryMs * (0.5 + this.#random()) : Infinity;
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
    const at = Math.max(now, Math.min(this.#deadline, this.#probeAt, this.#sayAt, silent, now + TICK_MS));
    // Set again with each message, a timer would cost more than the message: an earlier one that rings in vain does no harm.
    if (this.#timerAt <= at && this.#timerAt >= now) return;
    this.#timerAt = at;
    this.#act({ type: "timer", at });
  }
}
