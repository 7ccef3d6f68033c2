// Random schedules of publishing, trimming, breaking, refusing, draining, sleeping and pausing, against a model of a server.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Message, ServerMessage } from "../../src/protocol.js";
import { SeriesStore } from "../../src/store.js";
import { Rig } from "./rig.js";

const SCHEDULES = 300;
const STEPS = 400;
/** More than entries: what a snapshot leaves out does not come by itself. */
const SERIES = 1_000;
const PARTS = 3;

/** Numbers that one seed always gives (mulberry32). */
const chances = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

const token = (place: number) => `o${place}`;
const placeOf = (offset: string) => Number(offset.slice(1));

/** A log whose n-th entry (from 1) sets one series to n, and the sessions on it. */
class Server {
  /** There is something before the first session begins. */
  head = 20;
  /** Entries up to here are gone. */
  trimmed = 0;
  /** What a session sends before entries, and the last entry it has sent. */
  #first: ServerMessage[] = [];
  #sent = 0;
  #snapshot = false;

  series(entry: number): string {
    return `s${entry % SERIES}`;
  }

  entry(entry: number): ServerMessage {
    return { type: "metrics", offset: token(entry), collector: "c", metrics: [this.metric(entry)] };
  }

  metric(entry: number) {
    return { name: this.series(entry), tags: {}, fields: { n: entry }, timestamp: entry };
  }

  /** The last entry of each series. */
  state(): number[] {
    const last = Array.from({ length: SERIES }, (_, i) => this.head - i);
    return last.filter((entry) => entry > 0);
  }

  open(rig: Rig): void {
    const from = rig.asked("from");
    this.#snapshot = rig.asked("snapshot") === "true";
    this.#sent = from === null ? this.head : placeOf(from);
    const isNew = from === null && this.#snapshot;
    const place = isNew ? {} : { offset: token(this.#sent) };
    this.#first = [{ type: "welcome", ...place, heartbeat_ms: 15_000, node: "n", session: "s" }];
    if (this.#sent < this.trimmed) this.#miss("retention");
    else if (isNew) this.#sendState();
  }

  next(): ServerMessage | undefined {
    // What is trimmed under a session's feet is a gap, too.
    if (this.#first.length === 0 && this.#sent < this.trimmed) this.#miss("slow");
    return this.#first.shift() ?? (this.#sent < this.head ? this.entry(++this.#sent) : undefined);
  }

  #miss(reason: "retention" | "slow"): void {
    const from = this.#sent;
    this.#sent = this.#snapshot ? this.head : this.trimmed;
    const then = this.#snapshot && { snapshot: true as const };
    this.#first.push({ type: "gap", from: token(from), to: token(this.#sent), reason, ...then });
    if (this.#snapshot) this.#sendState();
  }

  #sendState(): void {
    const metrics = this.state().map((entry) => this.metric(entry));
    for (let part = 1; part <= PARTS; part++) {
      const share = metrics.filter((_, index) => index % PARTS === part - 1);
      const place = { offset: token(this.#sent), part, parts: PARTS };
      this.#first.push({ type: "snapshot", ...place, collector: "c", metrics: share });
    }
  }

  heartbeat(): ServerMessage | undefined {
    return this.#first.length > 0 ? undefined : { type: "heartbeat", offset: token(this.#sent) };
  }
}

/** Runs one schedule, and returns what was delivered. */
const run = (seed: number, snapshot: boolean): { server: Server; delivered: Message[]; rig: Rig } => {
  const random = chances(seed);
  const server = new Server();
  const rig = new Rig({ subscription: { snapshot }, urls: ["http://a", "http://b"] });
  const delivered: Message[] = [];
  let opened = 0;
  const take = () => {
    for (const action of rig.took()) if (action.type === "deliver") delivered.push(action.message);
    if (rig.link !== opened) {
      opened = rig.link;
      server.open(rig);
    }
  };
  const read = (message = server.next()) => {
    const isConnected = rig.state === "connecting" || rig.state === "open";
    if (message && isConnected && rig.link === opened) rig.say(message);
  };
  const steps: [number, () => unknown][] = [
    [30, () => (server.head += 1)],
    [40, () => read()],
    [3, () => rig.state === "open" && read(server.heartbeat())],
    [4, () => rig.lose()],
    [2, () => rig.lose({ timeout: true })],
    [2, () => rig.lose({ code: 4008 })],
    [1, () => rig.sleep(3_600_000)],
    [1, () => rig.machine.wake(rig.now)],
    [8, () => rig.pass(random() * 2_000)],
    [
      2,
      () => (
        rig.state === "open"
          ? read({
              type: "goodbye",
              reason: "draining",
              offset: rig.machine.offset ?? token(0),
              reconnect_after_ms: 10,
            })
          : 0,
        rig.lose({ code: 1012 })
      ),
    ],
    [2, () => rig.machine.pause()],
    [3, () => rig.state === "paused" && rig.start()],
    // Rarely, and then a lot: as a log is trimmed by age.
    [1, () => random() < 0.3 && (server.trimmed = Math.max(server.trimmed, server.head - Math.floor(random() * 10)))],
  ];
  const weights = steps.reduce((sum, [weight]) => sum + weight, 0);
  rig.start();
  take();
  for (let step = 0; step < STEPS; step++) {
    let at = random() * weights;
    const [, act] = steps.find(([weight]) => (at -= weight) < 0) ?? steps[0]!;
    act();
    take();
  }
  // In the end everything works, and everything comes.
  for (let i = 0; i < 10_000 && !(rig.machine.offset === token(server.head) && rig.state === "open"); i++) {
    if (rig.state === "paused") rig.start();
    if (rig.state === "waiting") rig.retry();
    take();
    read();
    take();
  }
  return { server, delivered, rig };
};

test("whatever happens, everything comes exactly once and in order, or is told as a gap", () => {
  for (let seed = 1; seed <= SCHEDULES; seed++) {
    const { delivered, server, rig } = run(seed, false);
    assert.equal(rig.machine.offset, token(server.head), `seed ${seed}: it never got there`);
    let place: number | undefined;
    for (const message of delivered) {
      if (message.type === "metrics") {
        const entry = placeOf(message.offset);
        assert.equal(entry, (place ?? entry - 1) + 1, `seed ${seed}`);
        place = entry;
      } else if (message.type === "gap") {
        assert.equal(placeOf(message.from), place ?? placeOf(message.from), `seed ${seed}`);
        place = placeOf(message.to);
      }
    }
  }
});

test("whatever happens, snapshots and what follows them add up to the last values", () => {
  for (let seed = 1; seed <= SCHEDULES; seed++) {
    const { delivered, server } = run(seed, true);
    const store = new SeriesStore();
    delivered.forEach((message) => store.apply(message));
    const truth = server.state().map((entry) => [server.series(entry), entry]);
    const found = [...store].map(({ name, fields }) => [name, fields["n"]]);
    assert.deepEqual(found.sort(), truth.sort(), `seed ${seed}`);
    assert.ok(
      [...store].every(({ uncertain }) => !uncertain),
      `seed ${seed}`,
    );
  }
});
