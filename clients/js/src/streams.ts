// A browser opens six connections to a host over HTTP/1.1, over all tabs together. Streams that never end would take them all, and
// whatever else a page asks this host for would hang. So few of them are streams; clients beyond that poll.

/** Streams to one host, over all tabs of this origin where the browser has locks (`https:`, `localhost`), else in this page. */
const STREAMS_MAX = 3;

const held = new Set<string>();

/** Browsers share one connection among all requests over HTTP/2, and Node opens as many as it is asked for. */
const isUnlimited = (origin: string): boolean => {
  const { location, performance } = globalThis as { location?: Location; performance?: Performance };
  if (!location) return true;
  const entries = (performance?.getEntriesByType?.("resource") ?? []) as PerformanceResourceTiming[];
  return entries.some(({ name, nextHopProtocol }) => name.startsWith(`${origin}/`) && /^h[23]/.test(nextHopProtocol));
};

/** Returns what gives the stream back, or nothing if all of them are taken. */
export const takeStream = async (origin: string): Promise<(() => void) | undefined> => {
  if (isUnlimited(origin)) return () => {};
  const locks = (globalThis.navigator as Navigator | undefined)?.locks;
  for (let stream = 1; stream <= STREAMS_MAX; stream++) {
    const name = `telecast ${origin} ${stream}`;
    if (held.has(name)) continue;
    held.add(name);
    const release = locks ? await lock(locks, name) : () => {};
    if (release) {
      return () => {
        held.delete(name);
        release();
      };
    }
    held.delete(name);
  }
  return undefined;
};

const lock = (locks: LockManager, name: string) =>
  new Promise<(() => void) | undefined>((taken) =>
    locks
      .request(name, { ifAvailable: true }, (lock) => {
        if (!lock) return taken(undefined);
        return new Promise<void>((release) => taken(release));
      })
      // A page that may have no locks (an opaque origin) counts for itself.
      .catch(() => taken(() => {})),
  );

const last = new Map<string, Promise<unknown>>();

/** Runs `ask` when those before it for this host have ended, so that clients that poll take one connection together. */
export const inTurn = <T>(origin: string, ask: () => Promise<T>): Promise<T> => {
  const turn = (last.get(origin) ?? Promise.resolve()).then(ask, ask);
  last.set(origin, turn);
  return turn;
};
