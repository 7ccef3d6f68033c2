interface Held<Item> {
  item: Item;
  offset: string | undefined;
  bytes: number;
}

interface Waiting<Item> {
  resolve: (result: IteratorResult<Item, undefined>) => void;
  reject: (error: unknown) => void;
}

const DONE = { done: true, value: undefined } as const;

/** Messages that wait for their reader, each with its size and the place behind it. An item that nobody was given stays. */
export class Queue<Item> {
  #items: Held<Item>[] = [];
  #first = 0;
  /** Calls of {@link next} that nothing was there for, in order. */
  #waiting: Waiting<Item>[] = [];
  #ended = false;
  #error: unknown;
  /** Behind what the reader works on. */
  #next: string | undefined;

  /** Behind everything that the reader is done with. */
  offset: string | undefined;
  /** Of all items that wait. */
  bytes = 0;

  constructor(offset: string | undefined) {
    this.offset = this.#next = offset;
  }

  get size(): number {
    return this.#items.length - this.#first;
  }

  push(item: Item, offset: string | undefined, bytes = 0): void {
    this.#items.push({ item, offset, bytes });
    this.bytes += bytes;
    this.#turn();
  }

  /** The place has moved without an item. */
  reached(offset: string | undefined): void {
    const last = this.#items.at(-1);
    if (this.size > 0 && last) last.offset = offset;
    else this.#next = offset;
    if (this.#waiting.length > 0) this.offset = this.#next;
  }

  /** Nothing more comes. */
  end(error: unknown): void {
    this.#ended = true;
    this.#error = error;
    this.#turn();
  }

  /** The reader leaves: the item that was given last is done with, and calls that wait are given nothing. */
  leave(): void {
    this.offset = this.#next;
    for (const { resolve } of this.#waiting.splice(0)) resolve(DONE);
  }

  /** Asking for the next item says that the ones before are done with. */
  next(): Promise<IteratorResult<Item, undefined>> {
    this.offset = this.#next;
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#turn();
    });
  }

  #turn(): void {
    while (this.#waiting.length > 0 && (this.size > 0 || this.#ended)) {
      const { resolve, reject } = this.#waiting.shift() as Waiting<Item>;
      if (this.size > 0) {
        resolve({ done: false, value: this.#take() });
      } else {
        const error = this.#error;
        // Told once: whoever asks again hears that it is over.
        this.#error = undefined;
        if (error) reject(error);
        else resolve(DONE);
      }
    }
  }

  #take(): Item {
    const { item, offset, bytes } = this.#items[this.#first++] as Held<Item>;
    // Items are not moved one by one: a long queue would be moved whole for each.
    if (this.#first * 2 >= this.#items.length) {
      this.#items.splice(0, this.#first);
      this.#first = 0;
    }
    this.#next = offset;
    this.bytes -= bytes;
    return item;
  }
}
