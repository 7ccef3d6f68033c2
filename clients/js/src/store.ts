import type { Client } from "./client.js";
import { report } from "./error.js";
import { SeriesKeys } from "./keys.js";
import type { FieldValue, GapMessage, Message, Metric } from "./protocol.js";

/** One series with the last value of each of its fields. A change makes another object: two that are the same are the same state. */
export interface Series {
  readonly collector: string;
  readonly name: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly fields: Readonly<Record<string, FieldValue>>;
  /** Milliseconds since 1970, of the newest field. */
  readonly timestamp: number;
  /** A gap came after its last value: there may have been a newer one. */
  readonly uncertain: boolean;
}

/** What {@link SeriesStore} is made with. */
export interface StoreOptions {
  /** Series that are kept at most (100,000); those that were updated longest ago go first. */
  max?: number | undefined;
  /** Series that were not updated for so many milliseconds go. Without it they stay. */
  maxAgeMs?: number | undefined;
}

/** Gets the series that a message changed, and those that are there no more, as they were last. */
export type StoreListener = (changed: readonly Series[], removed: readonly Series[]) => void;

interface Entry {
  readonly key: string;
  series: Series;
  /** Names of its fields, in their order. */
  names: readonly string[];
  /** Each field's time, where they differ: lines of one series need not have the same fields. */
  times: Map<string, number> | undefined;
  snapshot: number;
  /** When it was updated, by this machine's clock. */
  seenAt: number;
  /** The message that told of it last. */
  message: number;
  isHere: boolean;
  /** Its neighbours in the order of update. */
  older: Entry | undefined;
  newer: Entry | undefined;
}

const SERIES_MAX = 100_000;
/** Collectors and measurements whose last message is remembered at most. */
const REMEMBERED_MAX = 10_000;

/** Last values by series, out of snapshots and metrics: what a dashboard shows. For `format: "json"`. Its methods need no `this`. */
export class SeriesStore implements Iterable<Series> {
  readonly #entries = new Map<string, Entry>();
  /** Updated longest ago, and last. */
  #oldest: Entry | undefined;
  #newest: Entry | undefined;
  readonly #keys = new SeriesKeys();
  /** What a message was about, by its collector and measurement: the next one is nearly always about the same, in that order. */
  readonly #remembered = new Map<string, Entry[]>();
  readonly #listeners = new Set<{ listener: StoreListener }>();
  readonly #max: number;
  readonly #maxAgeMs: number;
  #snapshot = 0;
  #message = 0;
  #version = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** The last gap that was announced, if any. */
  lastGap: GapMessage | undefined;

  /** Follows `client`, if one is given; otherwise messages go to {@link apply}. */
  constructor(client?: Pick<Client, "on">, { max = SERIES_MAX, maxAgeMs = Infinity }: StoreOptions = {}) {
    this.#max = max;
    this.#maxAgeMs = maxAgeMs;
    for (const type of ["metrics", "snapshot", "gap"] as const) client?.on(type, this.apply);
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Another number with each change: what says to a framework that there is something new among all series. */
  get version(): number {
    return this.#version;
  }

  *[Symbol.iterator](): Generator<Series, undefined> {
    for (const { series } of this.#entries.values()) yield series;
  }

  readonly get = (collector: string, name: string, tags: Readonly<Record<string, string>> = {}): Series | undefined =>
    this.#entries.get(this.#keys.of(collector, name, tags))?.series;

  /** Calls `listener` with what each message changed and removed. Returns what ends that. */
  readonly subscribe = (listener: StoreListener): (() => void) => {
    const one = { listener };
    this.#listeners.add(one);
    return () => void this.#listeners.delete(one);
  };

  readonly clear = (): void => {
    const removed: Series[] = [];
    while (this.#oldest) this.#remove(this.#oldest, removed);
    this.#remembered.clear();
    this.#tell([], removed);
  };

  /** Takes one message in. Those without values change nothing. */
  readonly apply = (message: Message): void => {
    let changed: Entry[] = [];
    const removed: Series[] = [];
    const now = Date.now();
    this.#message += 1;
    if (message.type === "gap") {
      this.lastGap = message;
      changed = [...this.#entries.values()];
      for (const entry of changed) entry.series = { ...entry.series, uncertain: true };
    } else if (message.type === "metrics" || message.type === "snapshot") {
      if (message.type === "snapshot" && message.part === 1) this.#snapshot += 1;
      this.#update(message.collector, message.metrics, now, changed);
      // What is not in a snapshot is not there any more: it expired, or does not match. An incomplete one says nothing of it.
      if (message.type === "snapshot" && message.part === message.parts && !message.incomplete) {
        for (const entry of this.#entries.values()) if (entry.snapshot < this.#snapshot) this.#remove(entry, removed);
      }
      while (this.#oldest && this.#entries.size > this.#max) this.#remove(this.#oldest, removed);
    }
    this.#expire(now, removed);
    const here = removed.length === 0 ? changed : changed.filter(({ isHere }) => isHere);
    this.#tell(
      here.map(({ series }) => series),
      removed,
    );
  };

  #update(collector: string, metrics: readonly Metric[], now: number, changed: Entry[]): void {
    const [first] = metrics;
    if (!first) return;
    const about = `${collector}\n${first.name}`;
    let before = this.#remembered.get(about);
    if (!before) {
      if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear();
      this.#remembered.set(about, (before = []));
    }
    if (before.length > metrics.length) before.length = metrics.length;
    // No closure, no iterator: this is the busiest line of a page.
    for (let index = 0; index < metrics.length; index++) {
      const metric = metrics[index] as Metric;
      let entry = before[index];
      if (!entry?.isHere || entry.series.name !== metric.name || !sameTags(entry.series.tags, metric.tags)) {
        entry = before[index] = this.#entry(collector, metric);
      }
      merge(entry, metric);
      this.#toNewest(entry);
      entry.snapshot = this.#snapshot;
      entry.seenAt = now;
      if (entry.message !== this.#message) changed.push(entry);
      entry.message = this.#message;
    }
  }

  #entry(collector: string, { name, tags, fields, timestamp }: Metric): Entry {
    const key = this.#keys.of(collector, name, tags);
    let entry = this.#entries.get(key);
    if (!entry) {
      const series = { collector, name, tags, fields, timestamp, uncertain: false };
      const place = { isHere: true, older: undefined, newer: undefined };
      entry = {
        key,
        series,
        names: Object.keys(fields),
        times: undefined,
        snapshot: 0,
        seenAt: 0,
        message: 0,
        ...place,
      };
      this.#entries.set(key, entry);
    }
    return entry;
  }

  #toNewest(entry: Entry): void {
    if (entry === this.#newest) return;
    this.#unlink(entry);
    entry.older = this.#newest;
    if (this.#newest) this.#newest.newer = entry;
    else this.#oldest = entry;
    this.#newest = entry;
  }

  #unlink(entry: Entry): void {
    const { older, newer } = entry;
    if (older) older.newer = newer;
    else if (entry === this.#oldest) this.#oldest = newer;
    if (newer) newer.older = older;
    else if (entry === this.#newest) this.#newest = older;
    entry.older = entry.newer = undefined;
  }

  #remove(entry: Entry, removed: Series[]): void {
    this.#unlink(entry);
    entry.isHere = false;
    this.#entries.delete(entry.key);
    removed.push(entry.series);
  }

  #expire(now: number, removed: Series[]): void {
    if (this.#maxAgeMs === Infinity) return;
    for (let entry = this.#oldest; entry; entry = this.#oldest) {
      // A clock that was set back has it wait no longer than any.
      entry.seenAt = Math.min(entry.seenAt, now);
      const leftMs = entry.seenAt + this.#maxAgeMs - now;
      if (leftMs > 0) {
        this.#timer ??= later(leftMs, () => {
          this.#timer = undefined;
          const gone: Series[] = [];
          this.#expire(Date.now(), gone);
          this.#tell([], gone);
        });
        return;
      }
      this.#remove(entry, removed);
    }
  }

  #tell(changed: readonly Series[], removed: readonly Series[]): void {
    if (changed.length + removed.length === 0) return;
    this.#version += 1;
    for (const { listener } of [...this.#listeners]) {
      try {
        listener(changed, removed);
      } catch (error) {
        report(error);
      }
    }
  }
}

/** The longest that a timer takes (2³¹ ms). It keeps no process alive. */
const TIMER_MS_MAX = 2_147_483_647;

const later = (ms: number, call: () => void) => {
  const timer = setTimeout(call, Math.min(ms, TIMER_MS_MAX));
  (timer as { unref?: () => void }).unref?.();
  return timer;
};

const sameTags = (known: Readonly<Record<string, string>>, tags: Readonly<Record<string, string>>): boolean => {
  let left = 0;
  for (const _ in known) left += 1;
  for (const tag in tags) if (known[tag] !== tags[tag] || left-- === 0) return false;
  return left === 0;
};

const sameNames = (names: readonly string[], fields: object): boolean => {
  let index = 0;
  for (const field in fields) if (names[index++] !== field) return false;
  return index === names.length;
};

/** Has `entry` take in what is not older than what it has, field by field. */
const merge = (entry: Entry, { fields, timestamp }: Metric): void => {
  const { series } = entry;
  const { collector, name, tags } = series;
  // By far the usual case: the same fields, and newer. Then nothing has to be merged.
  if (timestamp >= series.timestamp && sameNames(entry.names, fields)) {
    entry.times = undefined;
    entry.series = { collector, name, tags, fields, timestamp, uncertain: false };
    return;
  }
  const times = (entry.times ??= new Map(entry.names.map((field) => [field, series.timestamp])));
  const newer = Object.entries(fields).filter(([field]) => timestamp >= (times.get(field) ?? -Infinity));
  for (const [field] of newer) times.set(field, timestamp);
  // Both define members: `__proto__` is a field like any other.
  const merged = { ...series.fields, ...Object.fromEntries(newer) };
  entry.names = Object.keys(merged);
  entry.series = {
    collector,
    name,
    tags,
    fields: merged,
    timestamp: Math.max(series.timestamp, timestamp),
    uncertain: false,
  };
};
