// The stream by asking, for a page whose connections to a host are taken by other streams.

import { at } from "./address.js";
import { failure, get, type Request } from "./http.js";
import type { End } from "./actions.js";
import type { Listener } from "./transport.js";
import { inTurn } from "./streams.js";

/** Between two questions. An answer comes at once, so that no connection is taken in between. */
const PAUSE_MS = 1_000;
/** As a server's without a word about it. */
const HEARTBEAT_MS = 15_000;

/** Asks until `isFree` says that a stream can be opened, from `next` on, or until something fails. */
export const poll = async (
  request: Request,
  stream: string,
  onText: Listener["onText"],
  isFree: () => Promise<boolean>,
): Promise<End | { next: string }> => {
  const url = at(stream, "poll");
  if (url.searchParams.get("format") === "influx")
    return {
      isOurs: true,
      reason: "other streams to this host take all the connections that a browser should give it",
    };
  url.searchParams.set("timeout", "0");
  const say = (message: object) => onText(JSON.stringify(message));
  for (let isFirst = true; ; isFirst = false) {
    const response = await inTurn(url.origin, () => get(request, url.href, "application/json"));
    if (!response.ok) return failure(response);
    const { messages, next } = (await response.json()) as { messages: object[]; next: string };
    if (request.signal.aborted) return {};
    if (isFirst) say({ type: "welcome", protocol: 1, node: "", session: "", heartbeat_ms: HEARTBEAT_MS });
    for (const message of messages) {
      if (request.signal.aborted) return {};
      say(message);
    }
    say({ type: "heartbeat", offset: next });
    url.searchParams.set("from", next);
    await new Promise((done) => setTimeout(done, PAUSE_MS));
    if (request.signal.aborted) return {};
    if (await isFree()) return { next };
  }
};
