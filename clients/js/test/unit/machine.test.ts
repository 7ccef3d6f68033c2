import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { Action } from "../../src/actions.js";
import { reconnect } from "../../src/protocol.js";
import { HEARTBEAT_MS, Rig } from "./rig.js";

const SILENCE_MS = 2 * HEARTBEAT_MS + 5_000;

test("the address says what is wanted, on both transports", () => {
  const rig = new Rig({
    urls: ["https://host/telecast/ws?tenant=7"],
    subscription: { filter: ["*.cpu{cpu=*}", "a.>"], interval: 500, format: "influx" },
    from: "-30s",
  });
  rig.http = { status: 200 };
  rig.start();
  const expected = "?tenant=7&filter=*.cpu%7Bcpu%3D*%7D&filter=a.%3E&interval=500&format=influx&from=-30s";
  assert.equal(rig.url, `wss://host/telecast/ws${expected}`);
  rig.lose().retry().lose().retry();
  assert.equal(rig.url, `https://host/telecast/sse${expected}`);
  for (const [given, opened] of [
    ["http://h", "ws://h/ws"],
    ["ws://h:1/", "ws://h:1/ws"],
    ["wss://h/ws/clients", "wss://h/ws"],
    ["https://h/a/sse", "wss://h/a/ws"],
  ]) {
    assert.equal(new Rig({ urls: [given as string] }).start().url, opened);
  }
});

test("a broken connection resumes behind the last message, on the next edge", () => {
  const rig = new Rig({ urls: ["http://a", "http://b"] }).start().welcome("W").metrics("M1").metrics("M2");
  rig.lose();
  assert.equal(rig.state, "waiting");
  assert.equal(rig.delayMs, 500, "half of a second: full jitter of the first pause");
  rig.pass(500);
  assert.equal(rig.url, "ws://b/ws?from=M2");
});

test("heartbeats and gaps move the place on", () => {
  const rig = new Rig().start().welcome("W");
  assert.equal(rig.machine.offset, "W");
  rig.say({ type: "heartbeat", offset: "H" });
  assert.equal(rig.machine.offset, "H");
  rig.gap("G");
  assert.equal(rig.machine.offset, "G");
});

test("what comes late from a connection that was given up is not heard", () => {
  const rig = new Rig().start().welcome("W").metrics("M1");
  const old = rig.link;
  rig.pass(SILENCE_MS).took();
  rig.machine.message(old, { type: "metrics", offset: "M2", collector: "c", metrics: [] }, rig.now);
  rig.machine.lost(old, { code: 1000 }, rig.now);
  assert.deepEqual(rig.took(), []);
  assert.equal(rig.machine.offset, "M1");
});

test("pauses grow to a bound, and shrink again once a connection was stable", () => {
  const rig = new Rig({ transports: ["websocket"] }).start();
  const pauses = Array.from({ length: 8 }, () => {
    rig.lose();
    const pause = rig.delayMs ?? -1;
    rig.pass(pause);
    return pause;
  });
  assert.deepEqual(pauses, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
  rig.welcome().pass(9_999).lose();
  assert.equal(rig.delayMs, 15_000, "not stable yet");
  rig.pass(15_000).welcome().pass(10_000).lose();
  assert.equal(rig.delayMs, 500);
});

test("the table of close codes is that of the protocol", () => {
  const text = readFileSync("../../docs/protocol.md", "utf8");
  const rows = [...text.matchAll(/^\| (\d{4}) \| [^|]+ \| ([^|]+) \|$/gm)];
  assert.ok(rows.length >= 13);
  for (const [, code, then = ""] of rows) {
    const expected = /^\W*no\b/.test(then) ? "no" : then.startsWith("at once") ? "at once" : "pause";
    assert.equal(reconnect(Number(code)), expected, `${code}: ${then}`);
  }
  assert.equal(reconnect(1006), "pause");
});

test("a final close code ends it with an error, others do not", () => {
  assert.equal(reconnect(1008), "no");
  // Proxies that restart send 1000 and 1001, and what is wrong with one connection need not be wrong with the next.
  for (const code of [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1009, 1011, 1013, 1014, 1015, 3000, 4000, 4999])
    assert.equal(reconnect(code), "pause", String(code));
  for (const code of [1000, 1001, 1005, 1008, 1012, 1013, 4008, 4010, 1006, 4999]) {
    const rig = new Rig().start().welcome();
    rig.lose({ code, reason: "because" });
    const errors = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
    if (reconnect(code) === "no") {
      assert.equal(rig.state, "closed");
      assert.deepEqual(
        errors.map(({ code, message, fatal }) => [code, message, fatal]),
        [[`close_${code}`, "because", true]],
      );
    } else {
      assert.deepEqual([rig.state, errors], ["waiting", []]);
      assert.equal(rig.delayMs, reconnect(code) === "at once" ? 0 : 500);
    }
  }
});

test("an edge that sends everybody away at once is not asked again at once", () => {
  const rig = new Rig().start().welcome().lose({ code: 4010 }).pass(0).welcome().lose({ code: 4010 });
  assert.equal(rig.delayMs, 1_000);
});

test("a goodbye says when to come back, and the close behind it does not change that", () => {
  const rig = new Rig({ urls: ["http://a", "http://b"] }).start().welcome();
  rig
    .say({ type: "goodbye", reason: "draining", offset: "G", reconnect_after_ms: 4_200 })
    .pass(200)
    .lose({ code: 1012 });
  assert.equal(rig.delayMs, 4_000);
  rig.pass(3_999);
  assert.equal(rig.state, "waiting");
  rig.pass(1);
  assert.equal(rig.url, "ws://b/ws?from=G");
});

test("silence of two heartbeats and a margin is a dead connection", () => {
  const rig = new Rig()
    .start()
    .welcome("W")
    .pass(SILENCE_MS - 1);
  assert.equal(rig.state, "open");
  rig.took();
  rig.pass(1);
  assert.deepEqual(rig.did(), ["drop", "open"], "at once: it is the first");
  const alive = new Rig().start().welcome();
  for (let i = 0; i < 10; i++) alive.pass(HEARTBEAT_MS).say({ type: "heartbeat", offset: "H" });
  assert.deepEqual(
    alive.did().filter((type) => type !== "open"),
    [],
  );
});

test("comments of a stream are signs of life", () => {
  const rig = new Rig({ transports: ["sse"] }).start().welcome();
  for (let i = 0; i < 10; i++) {
    rig.pass(HEARTBEAT_MS);
    rig.machine.heard(rig.link, rig.now);
  }
  assert.equal(rig.state, "open");
});

test("an attempt that is not welcomed in time has failed", () => {
  const rig = new Rig({ transports: ["websocket"] }).start().pass(9_999);
  assert.equal(rig.state, "connecting");
  rig.pass(1);
  assert.equal(rig.state, "waiting");
});

test("after a sleep a WebSocket is asked for a sign of life, and given up if there is none", () => {
  const rig = new Rig().start().welcome().metrics("M");
  rig.took();
  rig.sleep(3_600_000);
  assert.deepEqual(rig.took(), [{ type: "send", text: '{"type":"ping"}' }]);
  rig.pass(4_999);
  assert.equal(rig.state, "open");
  rig.pass(1);
  assert.equal(rig.state, "connecting");
  assert.equal(rig.asked("from"), "M");

  const alive = new Rig()
    .start()
    .welcome()
    .sleep(60_000)
    .say({ type: "pong" })
    .pass(SILENCE_MS - 1);
  assert.equal(alive.state, "open");
});

test("a sleep while an answer is due ends the connection, and no more", () => {
  const rig = new Rig().start().welcome();
  rig.machine.wake(rig.now);
  rig.took();
  rig.sleep(60_000).pass(0);
  assert.deepEqual(rig.did(), ["drop", "open"]);
});

test("after a sleep a stream of events is opened anew, unless something just came", () => {
  const rig = new Rig({ transports: ["sse"] }).start().welcome().metrics("M");
  rig.machine.wake(rig.now + 1_000);
  assert.equal(rig.state, "open");
  rig.sleep(60_000);
  assert.equal(rig.state, "connecting");
  assert.equal(rig.asked("from"), "M");
});

test("waking up ends a pause", () => {
  const rig = new Rig({ transports: ["websocket"] }).start();
  for (let i = 0; i < 5; i++) rig.lose().retry();
  rig.lose();
  assert.equal(rig.state, "waiting");
  rig.machine.wake(rig.now);
  assert.equal(rig.state, "connecting");
});

test("a clock that is set back kills nothing and stops nothing", () => {
  const rig = new Rig().start().welcome().metrics("M");
  rig.now -= 3_600_000;
  rig.timerAt = Infinity;
  rig.machine.tick(rig.now);
  rig.say({ type: "pong" }).pass(SILENCE_MS - 1);
  assert.equal(rig.state, "open");
  rig.pass(1);
  assert.equal(rig.state, "connecting");
});

test("an address that is refused ends it with the server's own words", () => {
  const rig = new Rig({ transports: ["sse"] }).start();
  rig.lose({ status: 400, error: { code: "bad_filter", message: "filter `cpu`: …" } });
  assert.equal(rig.state, "closed");
  const [error] = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual([error?.code, error?.message, error?.fatal], ["bad_filter", "filter `cpu`: …", true]);
});

test("a full node is asked again no sooner than it says", () => {
  const rig = new Rig({ transports: ["sse"] }).start().lose({ status: 503, retryAfterMs: 5_000 });
  assert.equal(rig.delayMs, 5_500);
});

test("an order to wait holds when the machine wakes, the network comes back, or a timer is late", () => {
  const orders: [string, (rig: Rig) => Rig][] = [
    [
      "goodbye",
      (rig) =>
        rig.say({ type: "goodbye", reason: "draining", offset: "G", reconnect_after_ms: 60_000 }).lose({ code: 1012 }),
    ],
    ["Retry-After", (rig) => rig.lose({ status: 503, retryAfterMs: 60_000 })],
    ["retry of a stream", (rig) => rig.lose({ retryAfterMs: 60_000 })],
  ];
  for (const [what, order] of orders) {
    const rig = order(new Rig({ transports: ["sse"] }).start().welcome());
    rig.machine.wake(rig.now);
    assert.equal(rig.state, "waiting", what);
    // Late by more than any scheduler: taken for a sleep.
    rig.sleep(20_000).machine.wake(rig.now);
    assert.equal(rig.state, "waiting", what);
    rig.sleep(39_999);
    assert.equal(rig.state, "waiting", what);
    rig.pass(1_001);
    assert.equal(rig.state, "connecting", what);
  }
});

test("an order to wait for longer than an hour is taken for a mistake", () => {
  for (const end of [{ status: 503, retryAfterMs: 1e12 }, { retryAfterMs: 1e12 }]) {
    const { delayMs } = new Rig({ transports: ["sse"] }).start().lose(end);
    assert.ok(delayMs && delayMs >= 3_600_000 && delayMs < 3_700_000, String(delayMs));
  }
});

test("a clock that is set back makes no order to wait longer", () => {
  const rig = new Rig({ transports: ["sse"] }).start().lose({ status: 503, retryAfterMs: 5_000 });
  rig.now -= 3_600_000;
  rig.timerAt = Infinity;
  rig.machine.tick(rig.now);
  assert.equal(rig.pass(5_500).state, "connecting");
});

test("what a server refuses behind the handshake ends it with the server's words, once", () => {
  const rig = new Rig().start();
  rig.took();
  rig.say({ type: "error", code: "bad_filter", message: "write `*.cpu`" });
  assert.deepEqual(rig.took(), [], "the close that follows says that it is final");
  rig.lose({ code: 1008, reason: "bad_filter" });
  const errors = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual(
    errors.map(({ code, message, fatal }) => [code, message, fatal]),
    [["bad_filter", "write `*.cpu`", true]],
  );
  assert.equal(rig.state, "closed");
});

test("a refusal behind the handshake that is not final is told, and tried again", () => {
  const rig = new Rig().start().say({ type: "error", code: "unavailable", message: "no log" }).lose({ code: 1013 });
  const errors = rig.took().flatMap((action) => (action.type === "error" ? [action.error] : []));
  assert.deepEqual([rig.state, errors.map(({ code, fatal }) => [code, fatal])], ["waiting", [["unavailable", false]]]);
});

test("a refused token ends it, unless there may be a better one next time", () => {
  assert.equal(new Rig({ transports: ["sse"] }).start().lose({ status: 401 }).state, "closed");
  assert.equal(new Rig({ transports: ["sse"], renewsToken: true }).start().lose({ status: 401 }).state, "waiting");
});

test("closed is closed", () => {
  const rig = new Rig().start().welcome();
  const id = rig.machine.change({ filter: "a.b" }, rig.now);
  rig.took();
  rig.machine.close();
  const settled = rig.took().find((action) => action.type === "settle");
  assert.equal(settled?.type === "settle" && settled.id === id && settled.error?.code, "closed");
  rig.lose().pass(3_600_000).machine.start(rig.now);
  rig.machine.wake(rig.now);
  assert.deepEqual(rig.took(), []);
});

test("a listener may close the client from any event", () => {
  for (const end of ["connecting", "open", "waiting"]) {
    const rig = new Rig();
    const close = (action: Action) => action.type === "state" && action.state.state === end && rig.machine.close();
    rig.onAction = close;
    rig.start();
    if (end !== "connecting") rig.welcome();
    if (end === "waiting") rig.lose();
    rig.took();
    rig.pass(600_000);
    assert.deepEqual([rig.state, rig.took()], ["closed", []], end);
    assert.equal(rig.isOpen, false, end);
  }
});

test("a reader that is behind stops the connection, and goes on where it was", () => {
  const rig = new Rig().start().welcome().metrics("M");
  assert.equal(rig.machine.pause(), true);
  rig.pass(600_000);
  assert.equal(rig.state, "paused");
  rig.start();
  assert.equal(rig.asked("from"), "M");
});
