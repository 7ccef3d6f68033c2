import type { Subscription, TransportName } from "./options.js";

/** An edge as the user names it; in a page also relative to that. */
export const edge = (text: string | URL, base: string | undefined): URL => {
  try {
    const url = new URL(text, base);
    if (/^(http|ws)s?:$/.test(url.protocol)) return url;
  } catch {}
  throw new TypeError(`connect: \`${text}\` is no address: it looks like http://HOST:PORT`);
};

/** Where a transport finds this subscription from this place on. The parameters that `base` has stay. */
export const address = (
  base: URL,
  transport: TransportName,
  { filter, ...rest }: Subscription,
  from: string | undefined,
): string => {
  const url = new URL(base);
  const [scheme, path] = transport === "sse" ? ["http", "/sse"] : ["ws", "/ws"];
  url.protocol = /^(https|wss):$/.test(url.protocol) ? `${scheme}s` : scheme;
  url.pathname = url.pathname.replace(/\/(ws(\/clients)?|sse)?\/?$/, "") + path;
  for (const one of [filter ?? []].flat()) url.searchParams.append("filter", one);
  for (const [name, value] of Object.entries({ ...rest, from }))
    if (value) url.searchParams.append(name, String(value));
  return url.href;
};
