// The thin shells around the two transports. Both tell what came and how it ended; neither knows what it means.

import type { End } from "./machine.js";
import type { WebSocketConstructor } from "./options.js";
import { sseParser } from "./sse.js";

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

/** Opens a WebSocket. */
export const openWebSocket = (
  Constructor: WebSocketConstructor,
  url: string,
  token: string | undefined,
  { onText, onEnd }: Listener,
): Connection => {
  const socket = new Constructor(url, subprotocols(token));
  socket.onmessage = (({ data }: { data: unknown }) => onText(String(data))) as (event: never) => void;
  socket.onclose = (({ code, reason }: { code: number; reason: string }) => onEnd({ code, reason })) as (
    event: never,
  ) => void;
  // `close` follows, and says more. Without a listener, the `ws` package throws.
  socket.onerror = silence;
  return {
    send: (text) => socket.send(text),
    close() {
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
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

/** Opens a stream of server-sent events. */
export const openSse = (
  fetch: typeof globalThis.fetch,
  url: string,
  token: string | undefined,
  { onText, onEnd }: Listener,
): Connection => {
  const abort = new AbortController();
  let end: End = {};
  const run = async () => {
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (token) headers["authorization"] = `Bearer ${token}`;
    const response = await fetch(url, { headers, signal: abort.signal, cache: "no-store" });
    if (!response.ok || !response.body || !/^text\/event-stream\b/.test(response.headers.get("content-type") ?? "")) {
      // Whatever is no stream is as if nothing were there: a proxy's page may well be a 200.
      end = { status: response.ok ? 404 : response.status };
      const seconds = Number(response.headers.get("retry-after"));
      if (seconds > 0) end.retryAfterMs = seconds * 1000;
      const body = await response.json().catch(() => undefined);
      if (body?.error?.code) end.error = body.error;
      return;
    }
    const parse = sseParser(
      (data) => onText(data),
      () => onText(undefined),
    );
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (let read; !(read = await reader.read()).done;) {
      parse(decoder.decode(read.value, { stream: true }));
      if (abort.signal.aborted) return;
    }
  };
  run()
    .catch((error) => (end.reason = String(error?.cause?.message ?? error?.message ?? error)))
    .finally(() => abort.signal.aborted || onEnd(end));
  return { send: silence, close: () => abort.abort() };
};
