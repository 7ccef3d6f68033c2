import { edge } from "./address.js";
import { TelecastError } from "./error.js";
import { Machine, type Action, type End } from "./machine.js";
import type { Change, Options, State, TransportName, WebSocketConstructor } from "./options.js";
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
import { openSse, openWebSocket, tryWebSocket, type Connection } from "./transport.js";

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

type Listener = (event: never) => void;

/** The end of something the user asked for. */
interface Settle {
  resolve: () => void;
  reject: (error: TelecastError) => void;
}

const BUFFER_MAX = 4096;

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
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What waits for a loop, since there was one. */
  #queue: Queue<Message> | undefined;
  #reading = false;

  /** @internal */
  constructor(options: Options) {
    this.#options = options;
    const { url, urls = url === undefined ? [] : [url], from, filter, snapshot, interval, format } = options;
    if (urls.length === 0) throw new TypeError("connect: `url` or `urls` is missing");
    this.#WebSocket = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    const wanted: readonly TransportName[] = options.transports ?? ["websocket", "sse"];
    const transports = wanted.filter((name) => name === "sse" || this.#WebSocket);
    if (transports.length === 0)
      throw new TypeError("connect: there is no WebSocket here: pass one, `connect({ WebSocket, … })`, or allow `sse`");
    const base = (globalThis as { location?: { href: string } }).location?.href;
    this.#machine = new Machine(
      {
        urls: urls.map((one) => edge(one, base)),
        subscription: Object.assign(
          {},
          filter && { filter },
          snapshot && { snapshot },
          interval && { interval },
          format && { format },
        ),
        from,
        transports,
        timing: options.timing,
        renewsToken: typeof options.token === "function",
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
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Changes what comes; what is left out stays as it is. Fails, with nothing changed, if the server refuses it. */
  subscribe(change: Change): Promise<void> {
    if (this.#machine.isClosed) return Promise.reject(new TelecastError("closed", "the client is closed"));
    return new Promise((resolve, reject) => {
      this.#asked.set(this.#machine.change(change, Date.now()), { resolve, reject });
    });
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
   * Messages in order. At most `bufferMax` wait: at that many the connection is closed, and resumed when they are read, so that a
   * slow reader costs no memory and misses nothing that the log still holds. There can be one loop at a time. Leaving it says that
   * its last message is done with, and leaves the client open: the next loop goes on behind it. A fatal error is thrown.
   */
  [Symbol.asyncIterator](): AsyncIterator<Message, undefined> {
    if (this.#reading) throw new TypeError("this client has an iterator already");
    this.#reading = true;
    const queue = (this.#queue ??= new Queue<Message>(this.#machine.offset));
    const { state } = this;
    if (state.state === "closed") queue.end(state.error);
    return {
      next: () => {
        const next = queue.next();
        if (queue.size === 0 && this.state.state === "paused") this.#machine.start(Date.now());
        return next;
      },
      return: async () => {
        this.#reading = false;
        queue.done();
        return { done: true, value: undefined };
      },
    };
  }

  #listenForWaking(): void {
    // Neither is there in Node.
    const { document: page, addEventListener: listen } = globalThis as {
      document?: Document;
      addEventListener?: Window["addEventListener"];
    };
    const wake = ({ type }: Event) => (type === "visibilitychange" && page?.hidden) || this.#machine.wake(Date.now());
    const options = { signal: this.#unlisten.signal };
    for (const event of ["visibilitychange", "resume"]) page?.addEventListener(event, wake, options);
    for (const event of ["online", "pageshow"]) page && listen?.(event, wake, options);
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
          this.#queue?.end(action.state.error);
        }
        return void this.#emit("state", action.state);
      case "error":
        if (!this.#emit("error", action.error) && action.error.fatal && !this.#queue) {
          queueMicrotask(() => {
            throw action.error;
          });
        }
        return;
      case "settle": {
        const asked = this.#asked.get(action.id);
        this.#asked.delete(action.id);
        return action.error ? asked?.reject(action.error) : asked?.resolve();
      }
    }
  }

  #deliver(message: Message): void {
    this.#emit(message.type, message as never);
    const queue = this.#queue;
    queue?.push(message, this.#machine.offset);
    if (queue && queue.size >= (this.#options.bufferMax ?? BUFFER_MAX)) this.#machine.pause();
  }

  /** Whether anybody was told. */
  #emit<Type extends keyof Events>(type: Type, event: Events[Type]): boolean {
    const listeners = [...(this.#listeners.get(type) ?? [])];
    for (const listener of listeners) {
      try {
        listener(event as never);
      } catch (error) {
        // A listener's fault ends neither the connection nor the turn of the other listeners.
        queueMicrotask(() => {
          throw error;
        });
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
      throw { error: { code: "token", message: `there is no token: ${(error as Error)?.message ?? error}` } };
    }
  }

  async #open(link: number, transport: TransportName, url: string): Promise<void> {
    const machine = this.#machine;
    const listener = {
      onText: (text: string | undefined) =>
        text === undefined ? machine.heard(link, Date.now()) : this.#read(link, text),
      onEnd: (end: End) => machine.lost(link, end, Date.now()),
    };
    try {
      const token = await this.#token();
      // Meanwhile it may have been given up.
      if (!machine.isCurrent(link)) return;
      this.#connection =
        transport === "sse"
          ? openSse(this.#options.fetch ?? globalThis.fetch, url, token, listener)
          : openWebSocket(this.#WebSocket as WebSocketConstructor, url, token, listener);
    } catch (error) {
      // Browsers throw where a page may not open such a WebSocket at all.
      listener.onEnd({ reason: String((error as Error).message), ...(error as End) });
    }
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
    this.#machine.message(link, message, Date.now());
    this.#queue?.reached(this.#machine.offset);
  }
}

/**
 * Connects to Telecast, and stays connected: whatever breaks, it resumes behind the last message, on any edge, without a loss or
 * a repetition. What the log no longer holds comes as a `gap`.
 */
export const connect = (options: Options): Client => new Client(options);
