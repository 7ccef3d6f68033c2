import type { Action, End } from "./actions.js";
import { baseAddress, edge } from "./address.js";
import { TelecastError, report } from "./error.js";
import { askOverHttp } from "./http.js";
import { Machine } from "./machine.js";
import {
  given,
  type Change,
  type Options,
  type State,
  type TransportName,
  type WebSocketConstructor,
} from "./options.js";
import {
  decode,
  type GapMessage,
  type LinesMessage,
  type LiveMessage,
  type Message,
  type MetricsMessage,
  type SnapshotMessage,
  type StaleMessage,
} from "./protocol.js";
import { Queue } from "./queue.js";
import { openEvents, openWebSocket, tryWebSocket, type Connection } from "./transport.js";

/** What {@link Client.on} tells. */
export interface Events {
  metrics: MetricsMessage;
  snapshot: SnapshotMessage;
  lines: LinesMessage;
  gap: GapMessage;
  stale: StaleMessage;
  live: LiveMessage;
  state: State;
  /** If it is `fatal`, the client is closed. A fatal error that nobody listens for is thrown, uncaught. */
  error: TelecastError;
}

/** Added twice, a function is two listeners. */
interface Listener {
  call: (event: never) => void;
}

/** The end of something the user asked for. */
interface Settle {
  resolve: () => void;
  reject: (error: TelecastError) => void;
  promise: Promise<void>;
}

const BUFFER_MAX = 4096;
/** Of text. What is made of it takes several times as much. */
const BUFFER_BYTES_MAX = 16 * 1024 * 1024;
/** A question to HTTP that is not answered by then has no answer. */
const ASK_MS = 5_000;

const MESSAGES = ["metrics", "snapshot", "lines", "gap", "stale", "live"] as const satisfies Message["type"][];

/** What is wanted, without what is left out. Fails on what the server would take for something else than was meant. */
const checked = (wanted: Change): Change => {
  const change: Change = given(wanted);
  const { filter, interval } = change;
  // Without a filter everything comes: a list that is still empty does not mean that.
  if (filter !== undefined && (filter.length === 0 || [filter].flat().includes("")))
    throw new TelecastError("bad_filter", "`filter` is empty: leave it out for everything, or name what is to come");
  if (interval !== undefined && !(interval >= 0 && interval < Infinity))
    throw new TelecastError("bad_interval", `\`interval\` is a number of milliseconds, not ${interval}`);
  return change;
};

/** A stream of live metrics that keeps its place: see {@link connect}. */
export class Client implements AsyncIterable<Message> {
  readonly #options: Options;
  readonly #machine: Machine;
  readonly #WebSocket: WebSocketConstructor | undefined;
  readonly #listeners = new Map<keyof Events, Set<Listener>>();
  readonly #asked = new Map<number, Settle>();
  readonly #unlisten = new AbortController();
  #connection: Connection | undefined;
  #trial: Connection | undefined;
  #asking: AbortController | undefined;
  /** The token of the last attempt. */
  #used: string | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What waits for a loop, since there was one. */
  #queue: Queue<Message> | undefined;
  /** The iterator that is read from. */
  #reader: object | undefined;
  /** Behind what the last loop was done with, if what followed was given to listeners only. */
  #left: string | undefined;
  /** Characters of the message that is being handled. */
  #bytes = 0;

  /** @internal */
  constructor(options: Options) {
    this.#options = options;
    const { url, urls = url === undefined ? [] : [url], from, filter, snapshot, interval, format } = options;
    const subscription = checked({ filter, snapshot, interval, format });
    if (urls.length === 0) throw new TypeError("connect: `url` or `urls` is missing");
    this.#WebSocket = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    const wanted: readonly TransportName[] = options.transports ?? ["websocket", "sse"];
    const transports = wanted.filter((name) => (name === "sse" ? this.#fetch : this.#WebSocket));
    if (transports.length === 0) {
      const needed = wanted.map((name) => (name === "sse" ? "fetch" : "WebSocket"));
      throw new TypeError(
        `connect: there is no ${needed.join(" and no ")} here: pass one, \`connect({ ${needed[0]}, … })\`${needed[1] ? "" : ", allow the other of `transports`"}, or connect in the browser only`,
      );
    }
    const base = baseAddress();
    this.#machine = new Machine(
      {
        urls: urls.map((one) => edge(one, base)),
        subscription,
        from: from ?? undefined,
        transports,
        timing: given(options.timing ?? {}),
        renewsToken: typeof options.token === "function",
        origin: (globalThis as { location?: { origin: string } }).location?.origin,
      },
      Math.random,
      (action) => this.#perform(action),
    );
    this.#listenForWaking();
    // Listeners are added behind `connect`, and shall miss nothing.
    queueMicrotask(() => this.#machine.start(Date.now()));
  }

  /**
   * The place behind everything that was handled: give it back as `from`, on any edge. With an iterator it is behind the message
   * before the one that is being worked on, else behind the one whose listeners were called last.
   */
  get offset(): string | undefined {
    return this.#queue ? this.#queue.offset : this.#machine.offset;
  }

  get state(): State {
    return this.#machine.state;
  }

  /** Calls `listener` at each event of that type. Returns what ends that. */
  on<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => void): () => void {
    const listeners = this.#listeners.get(type) ?? new Set();
    const one: Listener = { call: listener };
    this.#listeners.set(type, listeners.add(one));
    this.#resumeForListeners();
    return () => void listeners.delete(one);
  }

  /**
   * Changes what comes; what is left out stays as it is. Fails, with nothing changed, if the server refuses it. Changes that are asked for
   * while one is under way are one change together.
   */
  subscribe(change: Change): Promise<void> {
    const settle = {} as Settle;
    const asked = (settle.promise = new Promise<void>((resolve, reject) => Object.assign(settle, { resolve, reject })));
    try {
      if (this.#machine.isClosed) throw new TelecastError("closed", "the client is closed");
      this.#asked.set(this.#machine.change(checked(change), Date.now()), settle);
    } catch (error) {
      this.#reject(settle, error as TelecastError);
    }
    return asked;
  }

  /** Goes to another place: an offset, `latest`, `earliest`, or a time span like `-30s`. */
  replay(from: string): Promise<void> {
    return this.subscribe({ from });
  }

  /** Ends it for good. */
  close(): void {
    this.#machine.close();
  }

  /**
   * Messages in order. At most `bufferMax` wait, and `bufferBytesMax`: then the connection is closed, and resumed when they are read, so
   * that a slow reader costs no memory and misses nothing that the log still holds. There can be one loop at a time. Leaving it says
   * that its last message is done with, and leaves the client open: what comes goes to listeners, and waits for the next loop. If there
   * is none before so many messages wait, the next one begins with a `gap` for what only listeners got. A fatal error is thrown.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Message, undefined> {
    if (this.#reader) throw new TypeError("this client has an iterator already");
    const queue = (this.#queue ??= this.#newQueue());
    const { state } = this;
    if (state.state === "closed") queue.end(state.error);
    const reader: AsyncIterableIterator<Message, undefined> = {
      next: async () => {
        if (this.#reader !== reader) return { done: true, value: undefined };
        const next = queue.next();
        if (queue.size === 0 && this.state.state === "paused") this.#machine.start(Date.now());
        return next;
      },
      return: async () => {
        if (this.#reader === reader) {
          this.#reader = undefined;
          queue.leave();
          this.#resumeForListeners();
        }
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]: () => reader,
    };
    this.#reader = reader;
    return reader;
  }

  #newQueue(): Queue<Message> {
    const from = this.#left;
    this.#left = undefined;
    const place = this.#machine.offset;
    const queue = new Queue<Message>(from ?? place);
    if (from !== undefined) queue.push({ type: "gap", from, to: place ?? from, reason: "slow" }, place);
    return queue;
  }

  /** It is paused for a loop that is left, or since nobody listened. */
  #resumeForListeners(): void {
    if (!this.#reader && this.state.state === "paused" && this.#isHeard) this.#machine.start(Date.now());
  }

  /** Whether anybody but a loop gets messages. */
  get #isHeard(): boolean {
    return MESSAGES.some((type) => this.#listeners.get(type)?.size);
  }

  #listenForWaking(): void {
    // Neither is there in Node; workers have no page.
    const { document: page, addEventListener: listen } = globalThis as {
      document?: Document;
      addEventListener?: Window["addEventListener"];
    };
    const wake = ({ type }: Event) => (type === "visibilitychange" && page?.hidden) || this.#machine.wake(Date.now());
    const options = { signal: this.#unlisten.signal };
    for (const event of ["visibilitychange", "resume"]) page?.addEventListener(event, wake, options);
    for (const event of ["online", "pageshow"]) listen?.(event, wake, options);
  }

  #perform(action: Action): void {
    switch (action.type) {
      case "open":
        return void this.#open(action.link, action.transport, action.url);
      case "send":
        return this.#connection?.send(action.text);
      case "drop":
        this.#trial?.close();
        this.#connection?.close();
        this.#trial = this.#connection = undefined;
        return;
      case "ask":
        return void this.#ask(action.question, action.url);
      case "probe":
        return void this.#probe(action.url);
      case "timer": {
        clearTimeout(this.#timer);
        if (action.at < Infinity) {
          this.#timer = setTimeout(() => this.#machine.tick(Date.now()), Math.max(0, action.at - Date.now()));
        }
        return;
      }
      case "deliver":
        return this.#deliver(action.message);
      case "state":
        if (action.state.state === "closed") {
          this.#unlisten.abort();
          this.#asking?.abort();
          this.#queue?.end(action.state.error);
        }
        return void this.#emit("state", action.state);
      case "error":
        if (!this.#emit("error", action.error) && action.error.fatal && !this.#queue) report(action.error);
        return;
      case "settle": {
        const asked = this.#asked.get(action.id);
        this.#asked.delete(action.id);
        return asked && action.error ? this.#reject(asked, action.error) : asked?.resolve();
      }
    }
  }

  #reject({ reject, promise }: Settle, error: TelecastError): void {
    // Whoever closed the client need not have waited for what comes to nothing by that: it is no unhandled rejection.
    if (this.#machine.isClosed) promise.catch(() => {});
    reject(error);
  }

  #deliver(message: Message): void {
    this.#emit(message.type, message as never);
    const queue = this.#queue;
    if (!queue) return;
    queue.push(message, this.#machine.offset, this.#bytes);
    const { bufferMax = BUFFER_MAX, bufferBytesMax = BUFFER_BYTES_MAX } = this.#options;
    if (queue.size < bufferMax && queue.bytes < bufferBytesMax) return;
    if (this.#reader || !this.#isHeard) {
      this.#machine.pause();
    } else {
      // The loop was left, and listeners got it all: nothing has to wait for another loop, which hears about it.
      this.#left = queue.offset;
      this.#queue = undefined;
    }
  }

  /** Whether anybody was told. */
  #emit<Type extends keyof Events>(type: Type, event: Events[Type]): boolean {
    const listeners = [...(this.#listeners.get(type) ?? [])];
    for (const { call } of listeners) {
      try {
        call(event as never);
      } catch (error) {
        // A listener's fault ends neither the connection nor the turn of the other listeners.
        report(error);
      }
    }
    return listeners.length > 0;
  }

  /** Fails with what a connection that does not come about for it ends with. */
  async #token(): Promise<string | undefined> {
    const { token } = this.#options;
    try {
      return typeof token === "function" ? await token() : token;
    } catch (error) {
      const message = `there is no token: ${(error as Error)?.message ?? error}`;
      throw { isOurs: true, error: { code: "token", message } } satisfies End;
    }
  }

  async #open(link: number, transport: TransportName, url: string): Promise<void> {
    const machine = this.#machine;
    const listener = {
      onText: (text: string | undefined) =>
        text === undefined ? machine.heard(link, Date.now()) : this.#read(link, text),
      onEnd: (end: End) => machine.lost(link, end, Date.now()),
    };
    let token;
    try {
      token = await this.#token();
    } catch (end) {
      return listener.onEnd(end as End);
    }
    // Meanwhile it may have been given up.
    if (!machine.isCurrent(link)) return;
    this.#used = token;
    machine.dialled(link, Date.now());
    this.#connection =
      transport === "sse"
        ? openEvents(this.#fetch, url, token, listener)
        : openWebSocket(this.#WebSocket as WebSocketConstructor, url, token, listener);
  }

  /** Not in every place that renders pages, and not in every one that tests them. */
  get #fetch(): typeof globalThis.fetch {
    return this.#options.fetch ?? globalThis.fetch;
  }

  async #ask(question: number, url: string): Promise<void> {
    this.#asking?.abort();
    const abort = (this.#asking = new AbortController());
    const timer = setTimeout(() => abort.abort(), ASK_MS);
    const answer = await askOverHttp({ fetch: this.#fetch, token: this.#used, signal: abort.signal }, url);
    clearTimeout(timer);
    this.#machine.answered(question, answer, Date.now());
  }

  async #probe(url: string): Promise<void> {
    const done = (opened: boolean) => this.#machine.probed(opened, Date.now());
    try {
      this.#trial = tryWebSocket(this.#WebSocket as WebSocketConstructor, url, await this.#token(), done);
    } catch {
      done(false);
    }
  }

  #read(link: number, text: string): void {
    let message;
    try {
      message = decode(text);
    } catch {
      return void this.#emit(
        "error",
        new TelecastError("unreadable", `this is no message of Telecast: ${text.slice(0, 100)}`),
      );
    }
    this.#bytes = text.length;
    this.#machine.message(link, message, Date.now());
    this.#queue?.reached(this.#machine.offset);
  }
}

/**
 * Connects to Telecast, and stays connected: whatever breaks, it resumes behind the last message, on any edge, without a loss or
 * a repetition. What the log no longer holds comes as a `gap`.
 */
export const connect = (options: Options): Client => new Client(options);
