// Where a session resumes while snapshots and wishes are under way.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Rig } from "./rig.js";

const withSnapshot = (from?: string) =>
  new Rig({ subscription: { snapshot: true }, from, transports: ["websocket"] }).start();

const reconnected = (rig: Rig) => rig.lose().retry();

test("a snapshot that broke off is asked for again", () => {
  for (const until of [0, 1, 2]) {
    const rig = withSnapshot().welcome(null);
    for (let part = 1; part <= until; part++) rig.snapshot(part, 3);
    reconnected(rig);
    assert.deepEqual([rig.asked("snapshot"), rig.asked("from")], ["true", null], `after ${until} of 3 parts`);
    assert.equal(rig.machine.offset, undefined);
  }
});

test("a snapshot that came in full is where a session resumes", () => {
  const rig = withSnapshot().welcome(null).snapshot(1, 2).snapshot(2, 2);
  assert.equal(rig.machine.offset, "S");
  assert.equal(reconnected(rig).asked("from"), "S");
});

test("so it is in line protocol", () => {
  const rig = withSnapshot().welcome(null);
  rig.say({ type: "lines", offset: "S", lines: "", part: 1, parts: 2 });
  assert.equal(rig.machine.offset, undefined);
  rig.say({ type: "lines", offset: "S", lines: "", part: 2, parts: 2 });
  assert.equal(rig.machine.offset, "S");
});

test("where nothing matches, and so no snapshot comes, the next place is one", () => {
  assert.equal(withSnapshot().welcome(null).say({ type: "heartbeat", offset: "H" }).machine.offset, "H");
  assert.equal(withSnapshot().welcome(null).metrics("M").machine.offset, "M");
  assert.equal(withSnapshot().welcome("W").machine.offset, "W");
});

test("a gap that a snapshot follows is met again if the snapshot does not come", () => {
  const rig = withSnapshot("OLD").welcome("OLD").gap("S", true);
  assert.equal(reconnected(rig).asked("from"), "OLD");
  rig.welcome("OLD").gap("S2", true).snapshot(1, 2, "S2");
  assert.equal(reconnected(rig).asked("from"), "OLD");
  rig.welcome("OLD").gap("S3", true).snapshot(1, 2, "S3").snapshot(2, 2, "S3");
  assert.equal(reconnected(rig).asked("from"), "S3");
  assert.equal(rig.welcome("S3").gap("G").machine.offset, "G", "a gap without one");
});

test("a goodbye inside a snapshot has no place", () => {
  const rig = withSnapshot().welcome(null).snapshot(1, 2);
  rig.say({ type: "goodbye", reason: "draining", reconnect_after_ms: 10 });
  assert.equal(reconnected(rig).asked("from"), null);
});

test("a reader is not stopped inside a snapshot", () => {
  const rig = withSnapshot().welcome(null).snapshot(1, 2);
  assert.equal(rig.machine.pause(), false);
  assert.equal(rig.snapshot(2, 2).machine.pause(), true);
});

test("another subscription begins with last values of its own", () => {
  const rig = withSnapshot().welcome(null).snapshot(1, 1);
  const id = rig.machine.change({ filter: "c.d" }, rig.now);
  rig.say({ type: "ack", id });
  reconnected(rig);
  assert.deepEqual([rig.asked("snapshot"), rig.asked("from")], ["true", "latest"]);
});

test("parts of a conflated flush have offsets of their own", () => {
  const rig = new Rig({ subscription: { interval: 1000 } })
    .start()
    .welcome("F0")
    .metrics("F0")
    .metrics("F0")
    .metrics("F1");
  assert.equal(rig.machine.offset, "F1");
});

test("a time span is asked for until there is a place", () => {
  const rig = new Rig({ from: "-5m", transports: ["websocket"] }).start();
  assert.equal(reconnected(rig).asked("from"), "-5m");
  assert.equal(reconnected(rig.welcome("W")).asked("from"), "W");
});

test("an offset that was given is the place from the beginning", () => {
  assert.equal(new Rig({ from: "ARjq" }).machine.offset, "ARjq");
  assert.equal(new Rig({ from: "latest" }).machine.offset, undefined);
});

test("a change is sent, and counts when it is accepted", () => {
  const rig = new Rig({ subscription: { filter: "a.b" } }).start().welcome().metrics("M");
  rig.took();
  const id = rig.machine.change({ filter: "c.d" }, rig.now);
  assert.deepEqual(rig.took(), [{ type: "send", text: `{"type":"subscribe","id":${id},"filter":"c.d"}` }]);
  rig.say({ type: "ack", id });
  assert.deepEqual(rig.took(), [{ type: "settle", id }]);
  reconnected(rig);
  assert.deepEqual([rig.asked("filter"), rig.asked("from")], ["c.d", "M"]);
});

test("a change that is refused changes nothing", () => {
  const rig = new Rig({ subscription: { filter: "a.b" } }).start().welcome();
  const id = rig.machine.change({ filter: "c" }, rig.now);
  rig.took();
  rig.say({ type: "error", id, code: "bad_filter", message: "no" });
  const [settled, ...rest] = rig.took();
  assert.equal(settled?.type === "settle" && settled.error?.code, "bad_filter");
  assert.deepEqual(rest, []);
  assert.equal(reconnected(rig).asked("filter"), "a.b");
});

test("an error that answers nothing is told", () => {
  const rig = new Rig().start().welcome();
  rig.took();
  rig.say({ type: "error", code: "rate_limited", message: "slow down" });
  const [action] = rig.took();
  assert.equal(action?.type === "error" && !action.error.fatal && action.error.code, "rate_limited");
});

test("a replay goes to its place, over a break too", () => {
  const rig = new Rig().start().welcome().metrics("M9");
  const id = rig.machine.change({ from: "M1" }, rig.now);
  rig.metrics("M10").say({ type: "ack", id });
  assert.equal(reconnected(rig).asked("from"), "M1");
  rig.welcome("M1").metrics("M2");
  assert.equal(reconnected(rig).asked("from"), "M2");
});

test("a change that was not answered is asked for again on the next connection", () => {
  const rig = new Rig({ subscription: { filter: "a.b" } }).start().welcome().metrics("M");
  const id = rig.machine.change({ filter: "c.d", from: "-1m" }, rig.now);
  reconnected(rig);
  assert.deepEqual([rig.asked("filter"), rig.asked("from")], ["a.b", "M"]);
  rig.took();
  rig.welcome("M");
  assert.deepEqual(
    rig.took().filter(({ type }) => type === "send"),
    [{ type: "send", text: `{"type":"subscribe","id":${id},"filter":"c.d","from":"-1m"}` }],
  );
});

test("a change before the first connection, or while it connects, is asked for once it is open", () => {
  const rig = new Rig();
  const ids = [rig.machine.change({ filter: "c.d" }, rig.now), rig.start().machine.change({ snapshot: true }, rig.now)];
  assert.equal(rig.asked("filter"), null);
  rig.took();
  rig.welcome();
  assert.deepEqual(
    rig.took().flatMap((action) => (action.type === "send" ? JSON.parse(action.text).id : [])),
    [ids[1]],
    "as one",
  );
  rig.say({ type: "ack", id: ids[1] as number });
  assert.deepEqual(
    rig.took().flatMap((action) => (action.type === "settle" ? [action.id] : [])),
    ids,
  );
});

test("changes in a burst are two messages, and the last of each kind counts", () => {
  const rig = new Rig({ subscription: { filter: "a.b" }, transports: ["websocket"] }).start().welcome();
  rig.took();
  const ids = Array.from({ length: 200 }, (_, i) =>
    rig.machine.change(i === 7 ? { interval: 500 } : { filter: `c.${i}` }, rig.now),
  );
  const sent = () => rig.took().flatMap((action) => (action.type === "send" ? [JSON.parse(action.text)] : []));
  assert.deepEqual(sent(), [{ type: "subscribe", id: ids[0], filter: "c.0" }]);
  rig.say({ type: "ack", id: ids[0] as number });
  assert.deepEqual(sent(), [{ type: "subscribe", id: ids[199], filter: "c.199", interval: 500 }]);
  rig.say({ type: "ack", id: ids[199] as number });
  assert.equal(rig.took().filter((action) => action.type === "settle" && !action.error).length, 199);
  reconnected(rig);
  assert.deepEqual([rig.asked("filter"), rig.asked("interval")], ["c.199", "500"]);
});

test("of changes that were asked for together, only those fail that are refused alone", () => {
  for (const transport of ["websocket", "sse"] as const) {
    const rig = new Rig({ subscription: { filter: "a.b" }, transports: [transport] });
    const ids = [{ interval: 500 }, { filter: "nonsense" }, { snapshot: true }].map((change) =>
      rig.machine.change(change, rig.now),
    );
    rig.start();
    const settled: Record<number, string> = {};
    const refuse = (text: string) => text.includes("nonsense");
    rig.onAction = (action) => action.type === "settle" && (settled[action.id] = action.error?.code ?? "agreed");
    if (transport === "websocket") rig.welcome();
    for (let i = 0; i < 10 && Object.keys(settled).length < 3; i++) {
      if (transport === "sse") {
        if (refuse(rig.url)) rig.lose({ status: 400, error: { code: "bad_filter", message: "no" } });
        else rig.welcome();
        continue;
      }
      const [said] = rig.took().flatMap((action) => (action.type === "send" ? [action.text] : []));
      const { id } = JSON.parse(said ?? "{}");
      rig.say(refuse(said ?? "") ? { type: "error", id, code: "bad_filter", message: "no" } : { type: "ack", id });
    }
    assert.deepEqual(
      ids.map((id) => settled[id]),
      ["agreed", "bad_filter", "agreed"],
      transport,
    );
    reconnected(rig);
    assert.deepEqual(
      [rig.asked("filter"), rig.asked("interval"), rig.asked("snapshot")],
      ["a.b", "500", "true"],
      transport,
    );
  }
});

test("a change that came too soon for the server is said again", () => {
  const rig = new Rig({ transports: ["websocket"] }).start().welcome();
  const id = rig.machine.change({ filter: "c.d" }, rig.now);
  rig.say({ type: "error", id, code: "rate_limited", message: "too fast" });
  assert.deepEqual(
    rig.took().filter(({ type }) => type === "settle" || type === "error"),
    [],
  );
  rig.pass(1_000);
  assert.equal(rig.took().filter(({ type }) => type === "send").length, 1);
  rig.say({ type: "ack", id });
  assert.deepEqual(
    rig.took().filter(({ type }) => type === "settle"),
    [{ type: "settle", id }],
  );
});

test("on a stream of events a change is another stream, and a refused one goes back", () => {
  const rig = new Rig({ subscription: { filter: "a.b" }, transports: ["sse"] }).start().welcome().metrics("M");
  rig.took();
  rig.machine.change({ from: "Y" }, rig.now);
  const id = rig.machine.change({ filter: "c", from: "X" }, rig.now);
  rig.pass(0);
  assert.deepEqual(rig.did(), ["drop", "open"], "one for both");
  assert.deepEqual([rig.asked("filter"), rig.asked("from")], ["c", "X"]);
  const refuse = () => rig.lose({ status: 400, error: { code: "bad_filter", message: "no" } });
  refuse();
  assert.deepEqual([rig.asked("filter"), rig.asked("from")], ["a.b", "Y"], "each alone");
  rig.welcome("Y");
  refuse();
  const settled = rig.took().flatMap((action) => (action.type === "settle" ? [[action.id, action.error?.code]] : []));
  assert.deepEqual(settled, [
    [id - 1, undefined],
    [id, "bad_filter"],
  ]);
  assert.deepEqual([rig.state, rig.asked("filter"), rig.asked("from")], ["connecting", "a.b", "Y"]);
});

test("a stream that does not open with a change in its address is no refusal of it", () => {
  const rig = new Rig({ subscription: { filter: "a.b" }, transports: ["sse"] }).start().welcome().metrics("M");
  const id = rig.machine.change({ filter: "c.d" }, rig.now);
  rig.pass(0).lose({ status: 503 }).retry();
  assert.deepEqual([rig.asked("filter"), rig.asked("from")], ["c.d", "M"]);
  rig.took();
  rig.welcome("M");
  assert.deepEqual(
    rig.took().filter(({ type }) => type === "settle"),
    [{ type: "settle", id }],
  );
  assert.deepEqual(rig.did(), []);
});
