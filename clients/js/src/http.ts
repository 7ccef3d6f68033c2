// Plain requests beside the streams: how they are sent, what their answers mean, and what they tell about WebSockets.

import { at } from "./address.js";
import type { End, HttpAnswer } from "./actions.js";

/** How to ask. */
export interface Request {
  fetch: typeof globalThis.fetch;
  token: string | undefined;
  signal: AbortSignal;
}

export const get = (
  { fetch, token, signal }: Request,
  url: string,
  accept: string,
  method = "GET",
): Promise<Response> => {
  const headers: Record<string, string> = { accept };
  if (token) headers["authorization"] = `Bearer ${token}`;
  return fetch(url, { method, headers, signal, cache: "no-store" });
};

/** `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3). */
export const retryAfterMs = (value: string | null, date: string | null, now: number): number | undefined => {
  if (!value) return undefined;
  const seconds = Number(value);
  // Where the server says what time it is there, its clock counts.
  const ms = Number.isNaN(seconds) ? Date.parse(value) - (Date.parse(date ?? "") || now) : seconds * 1000;
  return ms > 0 ? ms : undefined;
};

/** The end of a connection that got this answer instead of what it asked for. */
export const failure = async (response: Response): Promise<End> => {
  // Whatever is not what was asked for is as if nothing were there: a proxy's page may well be a 200.
  const end: End = { status: response.ok ? 404 : response.status };
  const wait = retryAfterMs(response.headers.get("retry-after"), response.headers.get("date"), Date.now());
  if (wait !== undefined) end.retryAfterMs = wait;
  const body = await response.json().catch(() => undefined);
  if (body?.error?.code) end.error = body.error;
  return end;
};

/** The end of a connection that this page is not allowed to open. */
export const pageMayNot = (message: string): End => ({ isForbidden: true, error: { code: "policy", message } });

/**
 * What HTTP answers at the address of a stream, where a WebSocket did not open: whether the node is there at all, what it refuses, and
 * whether this page may read from it.
 */
export const askOverHttp = async (request: Request, url: string): Promise<HttpAnswer> => {
  try {
    const response = await get(request, url, "text/event-stream", "HEAD");
    if (response.ok) return { status: response.status };
    // `HEAD` has no words.
    const { status } = response;
    const isRefused = status >= 400 && status < 500 && status !== 429;
    return { ...(await failure(isRefused ? await get(request, url, "application/json") : response)), status };
  } catch {
    return (await isThere(request, url)) ? { isUnreadable: true } : {};
  }
};

/** Whether a node answers whose answers this page may not read. */
const isThere = async ({ fetch, signal }: Request, url: string): Promise<boolean> => {
  if (!("location" in globalThis)) return false;
  const livez = at(url, "livez");
  livez.search = "";
  try {
    await fetch(livez.href, { mode: "no-cors", signal, cache: "no-store" });
    return true;
  } catch {
    return false;
  }
};
