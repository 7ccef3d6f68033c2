import type { Client } from "./client.js";
import type { FieldValue, GapMessage, Message, Metric } from "./protocol.js";

/** One series with the last value of each of its fields. */
export interface Series {
  readonly collector: string;
  readonly name: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly fields: Record<string, FieldValue>;
  /** Milliseconds since 1970, of the newest field. */
  timestamp: number;
  /** A gap came after its last value: there may have been a newer one. */
  uncertain: boolean;
}

interface Entry extends Series {
  /** Each field has a time of its own: lines of one series need not have the same fields. */
  times: Record<string, number>;
  snapshot: number;
}

/** Series that are kept at most, unless `max` says otherwise; those that were updated longest ago go first. */
const SERIES_MAX = 100_000;

const keyOf = (collector: string, name: string, tags: Readonly<Record<string, string>>): string =>
  JSON.stringify([collector, name, Object.entries(tags).sort(([a], [b]) => (a < b ? -1 : 1))]);

/** Last values by series, out of snapshots and metrics: what a dashboard shows. For `format: "json"`. */
export class SeriesStore implements Iterable<Series> {
  readonly #series = new Map<string, Entry>();
  readonly #listeners = new Set<(changed: readonly Series[]) => void>();
  readonly #max: number;
  #snapshot = 0;
  /** The last gap that was announced, if any. */
  lastGap: GapMessage | undefined;

  /** Follows `client`, if one is given; otherwise messages go to {@link apply}. */
  constructor(client?: Pick<Client, "on">, { max = SERIES_MAX }: { max?: number } = {}) {
    this.#max = max;
    for (const type of ["metrics", "snapshot", "gap"] as const)
      client?.on(type, (message: Message) => this.apply(message));
  }

  get size(): number {
    return this.#series.size;
  }

  get(collector: string, name: string, tags: Readonly<Record<string, string>> = {}): Series | undefined {
    return this.#series.get(keyOf(collector, name, tags));
  }

  [Symbol.iterator](): Iterator<Series> {
    return this.#series.values();
  }

  /** Calls `listener` with the series that a message changed. Returns what ends that. */
  subscribe(listener: (changed: readonly Series[]) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  clear(): void {
    this.#series.clear();
  }

  /** Takes one message in. Those without values change nothing. */
  apply(message: Message): void {
    let changed: Series[] = [];
    if (message.type === "gap") {
      this.lastGap = message;
      for (const series of this.#series.values()) series.uncertain = true;
      changed = [...this.#series.values()];
    } else if (message.type === "metrics" || message.type === "snapshot") {
      if (message.type === "snapshot" && message.part === 1) this.#snapshot += 1;
      changed = [...new Set(message.metrics.map((metric) => this.#update(message.collector, metric)))];
      // What is not in a snapshot is not there any more: it expired, or does not match.
      if (message.type === "snapshot" && message.part === message.parts) {
        for (const [key, { snapshot }] of this.#series) if (snapshot < this.#snapshot) this.#series.delete(key);
      }
    }
    if (changed.length > 0) for (const listener of [...this.#listeners]) listener(changed);
  }

  #update(collector: string, { name, tags, fields, timestamp }: Metric): Series {
    const key = keyOf(collector, name, tags);
    const entry = this.#series.get(key) ?? {
      collector,
      name,
      tags,
      fields: {},
      times: {},
      timestamp,
      uncertain: false,
      snapshot: 0,
    };
    for (const [field, value] of Object.entries(fields)) {
      if (timestamp < (entry.times[field] ?? -Infinity)) continue;
      entry.fields[field] = value;
      entry.times[field] = timestamp;
    }
    entry.timestamp = Math.max(entry.timestamp, timestamp);
    entry.uncertain = false;
    entry.snapshot = this.#snapshot;
    // In order of update: a Map keeps the order of insertion.
    this.#series.delete(key);
    this.#series.set(key, entry);
    for (const oldest of this.#series.keys()) {
      if (this.#series.size <= this.#max) break;
      this.#series.delete(oldest);
    }
    return entry;
  }
}
