import type { Subscription, TransportName } from "./options.js";

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
