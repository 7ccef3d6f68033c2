// The thin shells around WebSockets and streams of events. They tell what came and how it ended, and do not know what it means.

import { failure, get, pageMayNot, type Request } from "./http.js";
import type { End } from "./actions.js";
import type { WebSocketConstructor } from "./options.js";
import { watchPolicy } from "./policy.js";
import { poll } from "./poll.js";
import { sseParser } from "./sse.js";
import { takeStream } from "./streams.js";

/** What a connection tells. After `close` it tells nothing more. */
export interface Listener {
  /** A message as text. `undefined`: a sign of life only. */
  onText(text: string | undefined): void;
  onEnd(end: End): void;
}

/** One connection. */
export interface Connection {
  send(text: string): void;
  close(): void;
}

/**
 * Subprotocols are offered only with a token: a browser fails the connection if a server selects none of those it was offered,
 * and a proxy or an older server may not.
 */
const subprotocols = (token: string | undefined): string[] => {
  if (!token) return [];
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  const base64url = btoa(bytes).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  return ["telecast.v1", `telecast.token.${base64url}`];
};

const silence = () => {};

/** `close` follows an error at once, unless a browser's policy forbids the connection or the peer does not answer any more. */
const CLOSE_FOLLOWS_MS = 100;
/** A peer that hangs does not answer to a farewell either, and the `ws` package would wait for half a minute. */
const FAREWELL_MS = 1_000;

/** Opens a WebSocket. */
export const openWebSocket = (
  Constructor: WebSocketConstructor,
  url: string,
  token: string | undefined,
  { onText, onEnd }: Listener,
): Connection => {
  const leavePolicy = watchPolicy(url);
  let socket: InstanceType<WebSocketConstructor>;
  try {
    socket = new Constructor(url, subprotocols(token));
  } catch (error) {
    // Browsers throw where a page may not open such a WebSocket at all.
    void leavePolicy(true).then((policy) => onEnd(pageMayNot(policy ?? String((error as Error).message))));
    return { send: silence, close: () => (onEnd = silence) };
  }
  let isOpen = false;
  let later: ReturnType<typeof setTimeout> | undefined;
  const end = async (end: End) => {
    socket.onmessage = socket.onclose = null;
    clearTimeout(later);
    const policy = isOpen ? undefined : await leavePolicy(true);
    onEnd(policy ? pageMayNot(policy) : end);
  };
  socket.onopen = () => {
    isOpen = true;
    void leavePolicy(false);
  };
  socket.onmessage = (({ data }: { data: unknown }) => onText(String(data))) as (event: never) => void;
  socket.onclose = (({ code, reason }: { code: number; reason: string }) => void end({ code, reason })) as (
    event: never,
  ) => void;
  // `close` says more. Without a listener, the `ws` package throws.
  socket.onerror = () => {
    later ??= setTimeout(() => void end({ reason: "it failed" }), CLOSE_FOLLOWS_MS);
  };
  return {
    send: (text) => socket.send(text),
    close() {
      onEnd = silence;
      void leavePolicy(false);
      clearTimeout(later);
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
      const farewell: unknown = setTimeout(() => socket.terminate?.(), FAREWELL_MS);
      // In Node a timer would keep the process alive; the socket does so itself until it is closed.
      (farewell as { unref?: () => void }).unref?.();
    },
  };
};

/** A WebSocket that has said nothing by then will not. */
const TRIAL_MS = 10_000;

/** Finds out whether a WebSocket opens. */
export const tryWebSocket = (
  Constructor: WebSocketConstructor,
  url: string,
  token: string | undefined,
  onDone: (opened: boolean) => void,
): Connection => {
  const done = (opened: boolean) => {
    close();
    onDone(opened);
  };
  // Its `welcome` says more than its opening: some proxies let a handshake through and nothing behind it.
  const listener = { onText: () => done(true), onEnd: () => done(false) };
  const connection = openWebSocket(Constructor, url, token, listener);
  const timer = setTimeout(listener.onEnd, TRIAL_MS);
  const close = () => {
    clearTimeout(timer);
    connection.close();
  };
  return { send: silence, close };
};

/** Opens a stream of server-sent events; where too many to that host are open, it polls until one is free. */
export const openEvents = (
  fetch: typeof globalThis.fetch,
  url: string,
  token: string | undefined,
  { onText, onEnd }: Listener,
): Connection => {
  const abort = new AbortController();
  const request = { fetch, token, signal: abort.signal };
  const { origin } = new URL(url);
  const leavePolicy = watchPolicy(url);
  const run = async (): Promise<End> => {
    let release = await takeStream(origin);
    const polled = release === undefined;
    let from: string | undefined;
    try {
      if (!release) {
        const end = await poll(request, url, onText, async () => (release = await takeStream(origin)) !== undefined);
        if ("next" in end) from = end.next;
        else return end;
      }
      if (abort.signal.aborted) return {};
      const address = new URL(url);
      if (from !== undefined) address.searchParams.set("from", from);
      // A client that polled was welcomed already.
      return await stream(request, address.href, (text) =>
        onText(polled && text?.startsWith('{"type":"welcome"') ? undefined : text),
      );
    } finally {
      release?.();
    }
  };
  run()
    .catch((error): End => ({ reason: String(error?.cause?.message ?? error?.message ?? error) }))
    .then(async (end) => {
      const policy = await leavePolicy(end.status === undefined && !abort.signal.aborted);
      if (!abort.signal.aborted) onEnd(policy ? pageMayNot(policy) : end);
    });
  return { send: silence, close: () => abort.abort() };
};

const stream = async (request: Request, url: string, onText: Listener["onText"]): Promise<End> => {
  const end: End = {};
  const response = await get(request, url, "text/event-stream");
  if (!response.ok || !response.body || !/^text\/event-stream\b/.test(response.headers.get("content-type") ?? ""))
    return failure(response);
  const parse = sseParser({
    onEvent: (data) => onText(data),
    onComment: () => onText(undefined),
    onRetry: (ms) => (end.retryAfterMs = ms),
  });
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (let read; !(read = await reader.read()).done;) {
      parse(decoder.decode(read.value, { stream: true }));
      if (request.signal.aborted) break;
    }
  } catch (error) {
    end.reason = String((error as Error)?.message ?? error);
  }
  return end;
};
