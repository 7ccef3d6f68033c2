import type { End, Setup } from "./actions.js";
import { at } from "./address.js";
import type { TransportName } from "./options.js";

/**
 * WebSockets that do not open while HTTP answers at the same address, until the other transport is tried: one that hangs counts as
 * two, since it costs more time. Where WebSockets have worked, more likely the server is being restarted.
 */
const BLOCKED_AFTER = 2;
const BLOCKED_AFTER_WORKING = 4;

/** Which transport is taken. WebSockets are given up only on evidence: a server that is away refuses them, too. */
export class Choice {
  transport: TransportName;
  /** A WebSocket has opened. */
  hasWorked = false;
  readonly #setup: Pick<Setup, "transports" | "urls">;
  /** How much speaks for WebSockets being blocked, and what the one that failed last adds to that if HTTP answers. */
  #blocked = 0;
  #suspicion = 0;
  /** Origins, their schemes included, that the page's policy forbids. */
  readonly #forbidden = new Set<string>();

  constructor(setup: Pick<Setup, "transports" | "urls">) {
    this.#setup = setup;
    this.transport = setup.transports[0] ?? "sse";
  }

  /** A connection was welcomed. */
  opened(): void {
    if (this.transport === "sse") return;
    this.hasWorked = true;
    this.#blocked = 0;
  }

  /** An attempt has failed. */
  failed({ timeout, isForbidden }: End): void {
    this.#suspicion = timeout ? 2 : 1;
    if (this.transport === "sse") {
      this.#blocked = 0;
      if (this.#mayUse("websocket")) this.transport = "websocket";
    } else if ((isForbidden || this.#setup.transports[0] === "sse") && this.#mayUse("sse")) {
      this.transport = "sse";
    }
  }

  /** Whether HTTP gives what the WebSocket that failed last would have given. A server that is away, or full, says nothing. */
  answered(isThere: boolean): void {
    if (isThere) this.#blocked += this.#suspicion;
    const enough = this.hasWorked ? BLOCKED_AFTER_WORKING : BLOCKED_AFTER;
    if (this.#blocked >= enough && this.#mayUse("sse")) this.transport = "sse";
  }

  /** Notes that the page's policy forbids this transport to this address. Returns whether nothing is left. */
  forbid(base: URL): boolean {
    this.#forbidden.add(at(base, this.transport).origin);
    return !this.#mayUse("websocket") && !this.#mayUse("sse");
  }

  /** Whether WebSockets are preferred and may get through again. */
  get wantsBack(): boolean {
    return this.transport === "sse" && this.#setup.transports[0] === "websocket" && this.#mayUse("websocket");
  }

  #mayUse(transport: TransportName): boolean {
    const { transports, urls } = this.#setup;
    return transports.includes(transport) && urls.some((url) => !this.#forbidden.has(at(url, transport).origin));
  }
}
