import type { TelecastError } from "./error.js";
import type { Change, Subscription } from "./options.js";

/** What a session has agreed on: what it gets, and from where on. */
export interface Agreed {
  subscription: Subscription;
  from: string | undefined;
  offset: string | undefined;
}

/** Something the user asked for that the server has not agreed to yet. */
interface Wish {
  id: number;
  change: Change;
  /** Several were refused together: now each is asked for alone. */
  isAlone?: boolean;
}

/** Some of them, asked for as one change. */
export interface Request {
  /** Of the last one: what the answer is known by. */
  id: number;
  wishes: Wish[];
  change: Change;
}

/** What was asked for, in order. One change is under way at a time; those that come meanwhile are one change together. */
export class Wishes {
  #waiting: Wish[] = [];
  #id = 0;
  /** On a WebSocket: said, and not answered yet. */
  #said: Request | undefined;
  /** On a stream of events: part of its address, and what to go back to if that does not open. */
  #carried: (Request & { before: Agreed }) | undefined;
  readonly #settled: (id: number, error?: TelecastError) => void;

  constructor(settled: (id: number, error?: TelecastError) => void) {
    this.#settled = settled;
  }

  add(change: Change): number {
    this.#waiting.push({ id: ++this.#id, change });
    return this.#id;
  }

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  /** What is to be said now, if anything is, and nothing is unanswered. */
  say(): Request | undefined {
    return this.#said || this.isEmpty ? undefined : (this.#said = this.#next());
  }

  /** What an answer with this id is about. */
  answered(id: unknown): Request | undefined {
    const said = this.#said;
    if (said === undefined || said.id !== id) return undefined;
    this.#said = undefined;
    return said;
  }

  /** The connection is gone, and with it what was said on it. */
  unsaid(): void {
    this.#said = undefined;
  }

  /** Puts what is asked for next into an address. */
  carry(before: Agreed): Change {
    this.#carried = { ...this.#next(), before };
    return this.#carried.change;
  }

  /** What was asked for in an address that did not open is not agreed on. */
  takeBack(): (Request & { before: Agreed }) | undefined {
    const carried = this.#carried;
    this.#carried = undefined;
    return carried;
  }

  agree({ wishes }: Pick<Request, "wishes">, error?: TelecastError): void {
    this.#waiting = this.#waiting.filter((other) => !wishes.includes(other));
    for (const { id } of wishes) this.#settled(id, error);
  }

  /** What of several wishes is at fault shows when each is asked for alone. */
  refuse(request: Request, error: TelecastError): void {
    if (request.wishes.length > 1) for (const wish of request.wishes) wish.isAlone = true;
    else this.agree(request, error);
  }

  end(error: TelecastError): void {
    this.agree({ wishes: this.#waiting }, error);
  }

  /** As one change: of what is asked for several times, the last counts. */
  #next(): Request {
    const alone = this.#waiting.findIndex(({ isAlone }) => isAlone);
    const wishes = this.#waiting.slice(0, alone === 0 ? 1 : alone < 0 ? undefined : alone);
    const id = wishes.at(-1)?.id ?? 0;
    return { id, wishes, change: Object.assign({}, ...wishes.map(({ change }) => change)) };
  }
}
