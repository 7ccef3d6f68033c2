/** Messages that wait for their reader, each with the place behind it. */
export class Queue<Item> {
  #items: { item: Item; offset: string | undefined }[] = [];
  #first = 0;
  #waiting: ((result: IteratorResult<Item, undefined>) => void) | undefined;
  #fail: ((error: unknown) => void) | undefined;
  #ended = false;
  #error: unknown;
  /** Behind what the reader works on. */
  #next: string | undefined;

  /** Behind everything that the reader is done with. */
  offset: string | undefined;

  constructor(offset: string | undefined) {
    this.offset = this.#next = offset;
  }

  get size(): number {
    return this.#items.length - this.#first;
  }

  push(item: Item, offset: string | undefined): void {
    this.#items.push({ item, offset });
    this.#turn();
  }

  /** The place has moved without an item. */
  reached(offset: string | undefined): void {
    const last = this.#items.at(-1);
    if (this.size > 0 && last) last.offset = offset;
    else this.#next = offset;
    if (this.#waiting) this.offset = this.#next;
  }

  /** Nothing more comes. */
  end(error: unknown): void {
    this.#ended = true;
    this.#error = error;
    this.#turn();
  }

  /** The item that was given last is done with. */
  done(): void {
    this.offset = this.#next;
  }

  /** Asking for the next item says that the one before is done with. */
  next(): Promise<IteratorResult<Item, undefined>> {
    this.done();
    return new Promise((resolve, reject) => {
      this.#waiting = resolve;
      this.#fail = reject;
      this.#turn();
    });
  }

  #turn(): void {
    const waiting = this.#waiting;
    if (!waiting) return;
    if (this.size > 0) {
      const { item, offset } = this.#items[this.#first++] as { item: Item; offset: string | undefined };
      // Items are not moved one by one: a long queue would be moved whole for each.
      if (this.#first * 2 >= this.#items.length) {
        this.#items.splice(0, this.#first);
        this.#first = 0;
      }
      this.#next = offset;
      waiting({ done: false, value: item });
    } else if (this.#ended) {
      if (this.#error) this.#fail?.(this.#error);
      else waiting({ done: true, value: undefined });
      this.#error = undefined;
    } else return;
    this.#waiting = this.#fail = undefined;
  }
}
