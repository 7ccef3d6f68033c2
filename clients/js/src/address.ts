import type { Subscription, TransportName } from "./options.js";

/** What a relative address counts from: the page, or the origin of one whose own address is none (`blob:`, `about:srcdoc`). */
export const baseAddress = (): string | undefined => {
  const { document: page, location } = globalThis as { document?: Document; location?: Location };
  const base = page?.baseURI ?? location?.href;
  return base && /^https?:/.test(base) ? base : location?.origin;
};

/** An edge as the user names it; in a page also relative to that. */
export const edge = (text: string | URL, base: string | undefined): URL => {
  let url;
  try {
    url = new URL(text, base);
  } catch {}
  if (!url && !base && /^[./?]/.test(String(text)))
    throw new TypeError(
      `connect: \`${text}\` counts from the page, and there is none: on a server, write the whole address, or connect in the browser only`,
    );
  if (!url || !/^(http|ws)s?:$/.test(url.protocol))
    throw new TypeError(`connect: \`${text}\` is no address: it looks like http://HOST:PORT`);
  if (url.username || url.password) {
    url.username = url.password = "";
    throw new TypeError(
      `connect: a user and a password in an address go nowhere, browsers refuse them: write \`${url}\`, and use \`token\``,
    );
  }
  url.hash = "";
  return url;
};

const PATHS = { websocket: "/ws", sse: "/sse", poll: "/api/metrics/poll", livez: "/livez" } as const;

/** Where a path of this edge is. The parameters that `base` has stay. */
export const at = (base: URL | string, path: keyof typeof PATHS): URL => {
  const url = new URL(base);
  const scheme = path === "websocket" ? "ws" : "http";
  url.protocol = /^(https|wss):$/.test(url.protocol) ? `${scheme}s` : scheme;
  url.pathname = url.pathname.replace(/\/(ws(\/clients)?|sse)?\/?$/, "") + PATHS[path];
  return url;
};

/** Where a transport finds this subscription from this place on. */
export const address = (
  base: URL,
  transport: TransportName,
  { filter, ...rest }: Subscription,
  from: string | undefined,
): string => {
  const url = at(base, transport);
  for (const one of [filter ?? []].flat()) url.searchParams.append("filter", one);
  for (const [name, value] of Object.entries({ ...rest, from }))
    if (value) url.searchParams.append(name, String(value));
  return url.href;
};
