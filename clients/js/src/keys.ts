/** Keys that are remembered at most for the order their tags came in. */
const KEYS_MAX = 200_000;

/** One text for one series, in whatever order its tags come. */
export class SeriesKeys {
  /** By tags in the order they came in, which is nearly always the same for a series: sorting costs more than all the rest. */
  readonly #known = new Map<string, string>();

  of(collector: string, name: string, tags: Readonly<Record<string, string>>): string {
    const asCame = joined(collector, name, tags);
    let key = this.#known.get(asCame);
    if (key === undefined) {
      const sorted = Object.entries(tags).sort(([a], [b]) => (a < b ? -1 : 1));
      key = joined(collector, name, Object.fromEntries(sorted));
      if (this.#known.size >= KEYS_MAX) this.#known.clear();
      this.#known.set(asCame, key);
    }
    return key;
  }
}

/** Lengths come first, so that no text can look like another's tags. */
const joined = (collector: string, name: string, tags: Readonly<Record<string, string>>): string => {
  let key = `${collector.length} ${name.length} ${collector}${name}`;
  for (const tag in tags) {
    const value = tags[tag] as string;
    key += `,${tag.length} ${value.length} ${tag}${value}`;
  }
  return key;
};
