// A machine with a clock that stands still, chance that is known, and a record of what it does.

import type { Action, End, HttpAnswer, Setup } from "../../src/actions.js";
import { Machine } from "../../src/machine.js";
import type { ServerMessage } from "../../src/protocol.js";

export const HEARTBEAT_MS = 15_000;

export class Rig {
  now = 1_700_000_000_000;
  /** Full jitter takes this share of a pause. */
  chance = 0.5;
  link = 0;
  url = "";
  transport = "";
  timerAt = Infinity;
  actions: Action[] = [];
  isOpen = false;
  /** What HTTP answers where a WebSocket did not open. `undefined`: it is not answered. */
  http: HttpAnswer | undefined = {};
  /** Tokens are there at once. */
  hasToken = true;
  onAction: (action: Action) => void = () => {};
  dial: number | undefined;
  answers: [number, HttpAnswer] | undefined;
  readonly machine: Machine;

  constructor(setup: Partial<Omit<Setup, "urls">> & { urls?: string[] } = {}) {
    const { urls = ["http://edge-1"], ...rest } = setup;
    this.machine = new Machine(
      {
        subscription: {},
        transports: ["websocket", "sse"],
        renewsToken: false,
        urls: urls.map((url) => new URL(url)),
        ...rest,
      },
      () => this.chance,
      (action) => {
        if (action.type === "timer") this.timerAt = action.at;
        else this.actions.push(action);
        // As the shell does, which asks again once it has a token.
        if (action.type === "drop") this.isOpen = false;
        if (action.type === "open") this.isOpen = true;
        this.onAction(action);
        if (action.type === "open") {
          ({ link: this.link, url: this.url, transport: this.transport } = action);
          if (this.hasToken) this.dial = this.link;
        }
        if (action.type === "ask" && this.http) this.answers = [action.question, this.http];
      },
    );
  }

  /** What the shell does once the machine has had its say. */
  settle(): this {
    const { dial, answers } = this;
    this.dial = this.answers = undefined;
    if (dial !== undefined) this.machine.dialled(dial, this.now);
    if (answers) this.machine.answered(...answers, this.now);
    return this;
  }

  /** What was done since the last call, timers aside. */
  took(): Action[] {
    return this.actions.splice(0);
  }

  /** The same without news of the state. */
  did(): string[] {
    return this.took()
      .filter(({ type }) => type !== "state")
      .map(({ type }) => type);
  }

  start(): this {
    this.machine.start(this.now);
    return this.settle();
  }

  say(message: ServerMessage): this {
    this.machine.message(this.link, message, this.now);
    return this.settle();
  }

  /** `null`: a snapshot comes first. */
  welcome(offset: string | null = "W0"): this {
    const place = offset === null ? {} : { offset };
    return this.say({ type: "welcome", ...place, heartbeat_ms: HEARTBEAT_MS, node: "edge-1", session: "s" });
  }

  metrics(offset: string): this {
    return this.say({ type: "metrics", offset, collector: "c", metrics: [] });
  }

  snapshot(part: number, parts: number, offset = "S"): this {
    return this.say({ type: "snapshot", offset, part, parts, collector: "c", metrics: [] });
  }

  gap(to: string, snapshot = false): this {
    return this.say({ type: "gap", from: "?", to, reason: "retention", ...(snapshot && { snapshot }) });
  }

  lose(end: End = { code: 1006 }): this {
    this.machine.lost(this.link, end, this.now);
    return this.settle();
  }

  /** Time goes by, and every timer rings when it should. */
  pass(ms: number): this {
    const until = this.now + ms;
    while (this.timerAt <= until) {
      this.now = Math.max(this.now, this.timerAt);
      this.timerAt = Infinity;
      this.machine.tick(this.now);
      this.settle();
    }
    this.now = until;
    return this;
  }

  /** To the end of the pause between two attempts. */
  retry(): this {
    return this.pass(this.delayMs ?? 0);
  }

  /** Time goes by, and no timer rings before the end of it: a sleep. */
  sleep(ms: number): this {
    this.now += ms;
    if (this.timerAt <= this.now) {
      this.timerAt = Infinity;
      this.machine.tick(this.now);
      this.settle();
    }
    return this;
  }

  /** A parameter of the address that was opened last. */
  asked(name: string): string | null {
    return new URL(this.url).searchParams.get(name);
  }

  get state(): string {
    return this.machine.state.state;
  }

  get delayMs(): number | undefined {
    const { state } = this.machine;
    return state.state === "waiting" ? state.delayMs : undefined;
  }
}
